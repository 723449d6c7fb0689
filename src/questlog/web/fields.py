"""What a request says about an event that the code does not describe itself: its declared fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from questlog.plan import Event
from questlog.types import Type, from_text

LARGEST_BODY = 1 << 20
_WHO = ("player_id", "session_id")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


Texts = Mapping[str, str]
Members = Mapping[str, msgspec.Raw]


def fields_of(
    event: Event, path: Mapping[str, Any], json_body: Callable[[], Members], texts: Callable[[], Texts]
) -> dict[str, Any]:
    """Return the event's declared fields, and who played, as a request gives them.

    What the router took from the *path* comes first, then the JSON body, then form and query string, whose
    text becomes the number or truth value a field wants. Nothing undeclared is read: a password in the body
    stays there. Whatever a client sends, this never raises: its view has succeeded.
    """
    body = json_body()
    found: dict[str, Any] = {}
    said: Texts | None = None
    for name, type_ in [*((name, Type("string")) for name in _WHO), *((f.name, f.type) for f in event.fields)]:
        if name in path:
            found[name] = _sendable(path[name])
        elif name in body:
            found[name] = body[name]
        else:
            said = texts() if said is None else said
            if name in said:
                found[name] = from_text(said[name], type_)
    return found


def _sendable(value: Any) -> Any:
    """Return what a URL converter made as something that JSON can hold: itself, all its digits, or its text."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return msgspec.Raw(json.dumps(value if isinstance(value, int) else str(value)).encode())
    return value


def plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return *body* with what was kept as JSON turned into values, for people to look at."""
    return {name: _value(value) if isinstance(value, msgspec.Raw) else value for name, value in body.items()}


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bytes(raw).decode("utf-8", "backslashreplace")


def members_of(body: bytes) -> Members:
    """Return the members of a JSON body as they were written, every digit of them; none of what is no object."""
    try:
        return _members.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
