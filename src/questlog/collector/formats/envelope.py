"""Other people's events as this plan wants them: what every event has goes where the plan's envelope says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from questlog.plan import Envelope, Plan
from questlog.record import NOT_JSON

CLASHING = "sent_as"
"""Where a field goes whose name the envelope has taken."""
encode = msgspec.json.Encoder().encode
_any = msgspec.json.Decoder()
_UNNAMED = re.compile(r"[^a-z0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def build(names: Envelope, own: Mapping[str, Any], fields: Mapping[str, Any]) -> bytes:
    """Return an event. *own* are the envelope's parts by name; None is left out. Fields keep every digit."""
    event: dict[str, Any] = {}
    clashing: dict[str, Any] = {}
    place = event
    for part in filter(None, names.fields.split(".")):
        place = place.setdefault(part, {})
    place.update(fields)
    for name, value in own.items():
        if value is None:
            continue
        *above, last = getattr(names, name).split(".")
        place = event
        for part in above:
            if not isinstance(place.get(part), dict):
                _set_aside(place, part, clashing)
                place[part] = {}
            place = place[part]
        _set_aside(place, last, clashing)
        place[last] = value
    if clashing:
        event.setdefault(CLASHING, clashing)
    return encode(event)


def _set_aside(place: dict[str, Any], name: str, clashing: dict[str, Any]) -> None:
    if name in place:
        clashing[name] = place.pop(name)


def text_of(raw: msgspec.Raw | None) -> str | None:
    """Return a JSON text, or the digits of a number; None for anything else and for an empty text."""
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
    """Return the event type that a sender's own name means: as it is, in snake case, or its last part."""
    if sent in plan.events:
        return sent
    snake = snake_case(sent)
    last = snake_case(sent.rsplit(".", 1)[-1])
    return last if snake not in plan.events and last in plan.events else snake or sent


def snake_case(sent: str) -> str:
    """Return `Order Completed` and `orderCompleted` as `order_completed`."""
    return _UNNAMED.sub("_", _HUMP.sub("_", sent).lower()).strip("_")
