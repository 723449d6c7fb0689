"""Segment's calls: to send here, an SDK written for Segment changes only its host.

A `track` call becomes an event of the type it names. The other calls become events named after the call, which a plan
can declare: identify, page, screen, group, alias. Properties and traits become fields; the rest of the call (context,
integrations, …) stays in the event, and lands in `_rescued` unless the plan declares it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from questlog.collector.formats import Format, Sent, sent_ms
from questlog.collector.formats.envelope import build, encode, event_name, snake_case, text_of
from questlog.collector.formats.events import split
from questlog.collector.http import Request, Response, refuse
from questlog.plan import Plan
from questlog.record import Members, json_members

CALLS = ("track", "identify", "page", "screen", "group", "alias")
_PAYLOAD = {"identify": "traits", "group": "traits"}
_NOT_FIELDS = frozenset(
    ("event", "messageId", "originalTimestamp", "properties", "sentAt", "timestamp", "traits", "type", "userId",
     "writeKey")
)  # fmt: skip
"""Members of a call that do not become fields. The write key is dropped: it must not reach a table."""


def reader(call: str) -> Format:
    """Return the format of one call's requests."""
    return partial(_read_one, call)


def read_batch(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Return the events of `POST /v1/batch`; each message names its call."""
    whole = json_members(body)
    messages = split(bytes(whole["batch"]), lines=False) if whole is not None and "batch" in whole else None
    if whole is None or messages is None or bytes(whole["batch"]).lstrip()[:1] != b"[":
        return refuse(400, "not_a_batch", "the body is not a JSON object with an array named batch")
    if isinstance(messages, Response):
        return messages
    return Sent([_event(None, raw, plan) for raw in messages], sent_ms(text_of(whole.get("sentAt"))))


def _read_one(call: str, request: Request, body: bytes, plan: Plan) -> Sent | Response:
    message = json_members(body)
    if message is None:
        return refuse(400, "not_json", "the body is not a JSON object")
    return Sent([_event(call, body, plan)], sent_ms(text_of(message.get("sentAt"))))


def _event(call: str | None, raw: bytes, plan: Plan) -> bytes:
    """Convert a message. Anything that is not one stays as sent, to be quarantined with a reason."""
    message = json_members(raw)
    if message is None:
        return raw
    call = call or text_of(message.get("type"))
    if call not in CALLS:
        return encode(message) if message.pop("writeKey", None) else raw
    name = text_of(message.get("event")) if call == "track" else call
    payload = _PAYLOAD.get(call, "properties")
    fields: dict[str, Any] = _rest(message)
    for member in ("properties", "traits"):
        if member in message:
            inner = json_members(message[member]) if member == payload else None
            fields |= {member: message[member]} if inner is None else inner
    user, anonymous = text_of(message.get("userId")), text_of(message.get("anonymousId"))
    parts = {
        "event_type": None if name is None else event_name(name, plan),
        "event_id": text_of(message.get("messageId")),
        "event_time": message.get("originalTimestamp") or message.get("timestamp"),
        "player_id": user or anonymous,
    }
    return build(plan.envelope, parts, fields)


def _rest(message: Members) -> dict[str, Any]:
    """Return the rest of a message, under names a plan can declare: groupId becomes group_id."""
    return {snake_case(name) or name: raw for name, raw in message.items() if name not in _NOT_FIELDS}
