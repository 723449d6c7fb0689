"""The declared fields that a request gives an event which the app's code does not describe itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from questlog.plan import Event
from questlog.record import Members
from questlog.types import Type, from_text

LARGEST_BODY = 1 << 20
_PLAYER_FIELDS = (("player_id", Type("string")), ("session_id", Type("string")))

Texts = Mapping[str, str]


def fields_of(
    event: Event, path: Mapping[str, Any], json_body: Callable[[], Members], texts: Callable[[], Texts]
) -> dict[str, Any]:
    """Return the event's declared fields, `player_id` and `session_id` as a request gives them.

    The router's values from the *path* come first, then the JSON body, then form and query string, whose text is
    converted to the field's number or boolean. Nothing undeclared is read: a password in the body stays there.
    Never raises, whatever the client sent, because the view has already succeeded.
    """
    body = json_body()
    fields: dict[str, Any] = {}
    parameters: Texts | None = None
    for name, type_ in [*_PLAYER_FIELDS, *((field.name, field.type) for field in event.fields)]:
        if name in path:
            fields[name] = _as_json(path[name])
        elif name in body:
            fields[name] = body[name]
        else:
            parameters = texts() if parameters is None else parameters
            if name in parameters:
                fields[name] = from_text(parameters[name], type_)
    return fields


def _as_json(value: Any) -> Any:
    """Return a URL converter's value in a form that JSON can hold: unchanged, as all its digits, or as text."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return msgspec.Raw(json.dumps(value if isinstance(value, int) else str(value)).encode())
    return value


def plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return *body* with its undecoded JSON values decoded, for signals and tests."""
    return {name: _value(value) if isinstance(value, msgspec.Raw) else value for name, value in body.items()}


def _value(raw: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bytes(raw).decode("utf-8", "backslashreplace")
