"""The ways in: each turns one request into events as the plan's envelope wants them, or says why it cannot."""

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
    """What one request holds. `at_ms` is when its sender says that it sent it, by its own clock."""

    events: Sequence[bytes]
    at_ms: int | None = None


Format = Callable[[Request, bytes, Plan], "Sent | Response"]
"""Reads a request: the request, its decompressed body and the plan -> its events, or the refusal of them all."""


def sent_ms(text: object) -> int | None:
    """Return a time a sender gives for its request, milliseconds since 1970 or ISO 8601; None if it is none."""
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 16:
        text = int(text)
    if isinstance(text, int | float) and not isinstance(text, bool):
        return int(text) if 0 <= text <= LAST_MS else None
    if not isinstance(text, str):
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
        found = int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found <= LAST_MS else None


def query_of(request: Request) -> dict[str, str]:
    """Return the query string's fields; the first of equal names counts."""
    found: dict[str, str] = {}
    if request.query:
        for name, value in parse_qsl(request.query.decode("latin-1"), keep_blank_values=True):
            found.setdefault(name, value)
    return found
