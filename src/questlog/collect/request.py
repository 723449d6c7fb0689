"""What a Flask request says about an event that the code does not describe itself: its declared fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Request
from werkzeug.exceptions import HTTPException

from questlog.plan import Event, Type

LARGEST_BODY = 1 << 20
_WHO = ("player_id", "session_id")
_NUMBERS = {"int": int, "long": int, "float": float, "double": float}
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]+)?")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def fields_of(request: Request, event: Event) -> dict[str, Any]:
    """Return the event's declared fields, and who played, as the request gives them.

    What the URL rule took from the path comes first, then the JSON body, then form and query string, whose
    text becomes the number or truth value a field wants. Nothing undeclared is read: a password in the body
    stays there. Whatever a client sends, this never raises: its view has succeeded.
    """
    path: Mapping[str, Any] = request.view_args or {}
    environ = request.environ
    if not path and not environ.get("QUERY_STRING") and not environ.get("CONTENT_TYPE"):
        return {}
    body = _json(request)
    found: dict[str, Any] = {}
    texts: Mapping[str, str] | None = None
    for name, type_ in [*((name, Type("string")) for name in _WHO), *((f.name, f.type) for f in event.fields)]:
        if name in path:
            found[name] = _sendable(path[name])
        elif name in body:
            found[name] = body[name]
        else:
            texts = _texts(request) if texts is None else texts
            if name in texts:
                found[name] = _typed(texts[name], type_)
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


def _json(request: Request) -> Mapping[str, msgspec.Raw]:
    """Return the members of a JSON body as they were written, every digit of them; none of what is no object."""
    if not request.is_json or not _is_small(request):
        return {}
    try:
        return _members.decode(request.get_data())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, HTTPException, OSError):
        return {}


def _texts(request: Request) -> Mapping[str, str]:
    """Return what query string and form say; the form counts."""
    texts = dict(request.args.items()) if request.query_string else {}
    if request.mimetype == "application/x-www-form-urlencoded" and _is_small(request):
        try:
            texts |= dict(request.form.items())
        except (HTTPException, OSError):
            return texts
    return texts


def _is_small(request: Request) -> bool:
    """Return whether the body may be read: one of unknown length may never end."""
    return request.content_length is not None and request.content_length <= LARGEST_BODY


def _typed(text: str, type_: Type) -> Any:
    """Return *text* as the value a field of *type_* wants, or as it is: then it is judged as text."""
    number = _NUMBERS.get(type_.kind)
    if number is not None and _NUMBER.fullmatch(text):
        return number(text) if number is float or "." not in text else text
    if type_.kind == "bool" and text in ("true", "false"):
        return text == "true"
    return text
