"""Input formats: each turns a request into events in the shape of the plan's envelope, or refuses it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl

from questlog.collector.http import Request, Response
from questlog.plan import Plan
from questlog.record import LAST_MS


@dataclass(frozen=True, slots=True)
class Sent:
    """The events of one request. `at_ms` is when it was sent, by the sender's clock."""

    events: Sequence[bytes]
    at_ms: int | None = None


Format = Callable[[Request, bytes, Plan], "Sent | Response"]
"""Reads a request: the request, its decompressed body and the plan -> its events, or the refusal of them all."""


def sent_ms(text: object) -> int | None:
    """Parse the time a request was sent, in milliseconds since 1970 or ISO 8601; None if it is neither."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 16:
        text = int(text)
    if isinstance(text, int | float) and not isinstance(text, bool):
        return int(text) if 0 <= text <= LAST_MS else None
    if not isinstance(text, str):
        return None
    try:
        time = dt.datetime.fromisoformat(text)
        milliseconds = int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return milliseconds if 0 <= milliseconds <= LAST_MS else None


def query_of(request: Request) -> dict[str, str]:
    """Return the fields of the query string; if a name repeats, its first value."""
    fields: dict[str, str] = {}
    if request.query:
        for name, value in parse_qsl(request.query.decode("latin-1"), keep_blank_values=True):
            fields.setdefault(name, value)
    return fields
