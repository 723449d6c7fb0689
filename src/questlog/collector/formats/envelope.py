"""Converts events of other formats: the parts every event has go where the plan's envelope puts them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from questlog.plan import Envelope, Plan
from questlog.record import NOT_JSON

CLASHING = "sent_as"
"""Holds fields whose names the envelope uses itself."""
encode = msgspec.json.Encoder().encode
_any = msgspec.json.Decoder()
_UNNAMED = re.compile(r"[^a-z0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def build(names: Envelope, parts: Mapping[str, Any], fields: Mapping[str, Any]) -> bytes:
    """Return an event. *parts* of the envelope that are None are left out; numbers in *fields* keep every digit."""
    event: dict[str, Any] = {}
    clashing: dict[str, Any] = {}
    parent = event
    for step in filter(None, names.fields.split(".")):
        parent = parent.setdefault(step, {})
    parent.update(fields)
    for name, value in parts.items():
        if value is None:
            continue
        *path, last = getattr(names, name).split(".")
        parent = event
        for step in path:
            if not isinstance(parent.get(step), dict):
                _set_aside(parent, step, clashing)
                parent[step] = {}
            parent = parent[step]
        _set_aside(parent, last, clashing)
        parent[last] = value
    if clashing:
        event.setdefault(CLASHING, clashing)
    return encode(event)


def _set_aside(parent: dict[str, Any], name: str, clashing: dict[str, Any]) -> None:
    if name in parent:
        clashing[name] = parent.pop(name)


def text_of(raw: msgspec.Raw | None) -> str | None:
    """Return a JSON string, or a number as written; None for anything else and for an empty string."""
    if raw is None or bytes(raw) == b"null":
        return None
    try:
        value = _any.decode(raw)
    except NOT_JSON:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return value or None if isinstance(value, str) else bytes(raw).decode()


def event_name(sent: str, plan: Plan) -> str:
    """Return the event type for a sender's name: the name itself, in snake case, or its last part in snake case."""
    if sent in plan.events:
        return sent
    snake = snake_case(sent)
    last = snake_case(sent.rsplit(".", 1)[-1])
    return last if snake not in plan.events and last in plan.events else snake or sent


def snake_case(sent: str) -> str:
    """Convert `Order Completed` and `orderCompleted` to `order_completed`."""
    return _UNNAMED.sub("_", _HUMP.sub("_", sent).lower()).strip("_")
