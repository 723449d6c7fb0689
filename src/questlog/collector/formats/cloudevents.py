"""CloudEvents 1.0 over HTTP: binary (attributes in `ce-` headers), structured, and batches.

A CloudEvent's id is unique only within its source, so `source` and `id` together become the event id. `type`, or its
last part, names the event type; `data` holds the fields, and all other attributes become fields too.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any
from urllib.parse import unquote

import msgspec

from questlog.collector.formats import Sent, sent_ms
from questlog.collector.formats.envelope import build, event_name, text_of
from questlog.collector.formats.events import media_type, split
from questlog.collector.http import Request, Response, refuse
from questlog.plan import Plan
from questlog.record import MAX_ID_LENGTH, NOT_JSON, json_members

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
_ATTRIBUTES = ("specversion", "id", "source", "type", "time", "data", "data_base64", "datacontenttype", "dataschema")
_WHO = ("player_id", "session_id", "sequence", "event_time")
_json = msgspec.json.Encoder()


def is_cloudevent(request: Request) -> bool:
    """Return whether a request to `/v1/events` carries CloudEvents."""
    return b"ce-specversion" in request.headers or media_type(request) in (STRUCTURED, BATCH)


def read_cloudevents(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Return the events of a request in any of the three modes."""
    media, at = media_type(request), sent_ms(request.header(b"x-sent-time") or None)
    if media == BATCH:
        if body.strip()[:1] != b"[":
            return refuse(400, "not_json", "a batch of CloudEvents is a JSON array")
        events = split(body, lines=False)
        return events if isinstance(events, Response) else Sent([_event(raw, plan) for raw in events], at)
    if media == STRUCTURED:
        return Sent([_event(body, plan)], at) if body.strip() else refuse(400, "empty", "the body holds no event")
    return Sent([_binary(request, body, media, plan)], at)


def _event(raw: bytes, plan: Plan) -> bytes:
    """Convert a structured event. Anything but a CloudEvent 1.0 stays as sent, to be quarantined with a reason."""
    members = json_members(raw)
    if members is None or text_of(members.get("specversion")) != "1.0":
        return raw
    return _build(dict(members), members.get("data"), plan, raw)


def _binary(request: Request, body: bytes, media: str, plan: Plan) -> bytes:
    attributes: dict[str, Any] = {
        name[3:].decode("latin-1"): msgspec.Raw(_json.encode(_text(value)))
        for name, value in request.headers.items()
        if name.startswith(b"ce-")
    }
    data: Any = None
    if body:
        data = _data(body, media)
        if data is None:
            attributes["data_base64"] = msgspec.Raw(_json.encode(base64.b64encode(body).decode()))
    described = _json.encode(attributes if data is None else attributes | {"data": data})
    if text_of(attributes.get("specversion")) != "1.0":
        return described
    return _build(attributes, data, plan, described)


def _data(body: bytes, media: str) -> msgspec.Raw | None:
    """Return a body as JSON, text as a JSON string; None if it is neither."""
    try:
        if media in ("", "application/json") or media.endswith("+json"):
            return msgspec.json.decode(body, type=msgspec.Raw)
        return msgspec.Raw(_json.encode(body.decode()))
    except NOT_JSON:
        return None


def _build(attributes: dict[str, Any], data: msgspec.Raw | None, plan: Plan, whole: bytes) -> bytes:
    required = {name: text_of(attributes.get(name)) for name in ("id", "source", "type")}
    if None in required.values():
        return whole
    fields: dict[str, Any] = {name: raw for name, raw in attributes.items() if name not in _ATTRIBUTES}
    inner = json_members(data)
    if inner is not None:
        fields |= inner
    elif data is not None:
        fields["data"] = data
    if "data_base64" in attributes:
        fields["data_base64"] = attributes["data_base64"]
    names = plan.envelope
    envelope = {name: fields.pop(getattr(names, name), None) for name in _WHO if getattr(names, name) in fields}
    envelope["event_type"] = event_name(str(required["type"]), plan)
    envelope["event_id"] = _id(str(required["source"]), str(required["id"]))
    envelope["event_time"] = attributes.get("time") or envelope.get("event_time")
    return build(names, envelope, {"source": attributes["source"]} | fields)


def _id(source: str, identity: str) -> str:
    """Return an id that is unique across sources."""
    whole = f"{source}#{identity}"
    return whole if len(whole) <= MAX_ID_LENGTH else "sha256-" + hashlib.sha256(whole.encode()).hexdigest()


def _text(value: bytes) -> str:
    """Decode an attribute's header: percent-encoded UTF-8, optionally in quotes."""
    text = value.decode("latin-1").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return unquote(text, errors="replace")
