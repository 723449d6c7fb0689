"""`GET /v1/pixel.gif`: one event in a query string, for e-mail and pages without scripts."""

from __future__ import annotations

from typing import Any

from questlog.accept import Accepted
from questlog.collector.formats import Sent, query_of
from questlog.collector.formats.envelope import build
from questlog.collector.http import Request, Response, refuse
from questlog.plan import Plan
from questlog.types import from_text

GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
_ENVELOPE = ("event_type", "event_id", "event_time", "player_id", "session_id", "sequence")


def read_pixel(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Return the event of a query string; its values are converted to the numbers and booleans the plan declares."""
    query = query_of(request)
    query.pop("key", None)
    if not query.get("event_type"):
        return refuse(400, "empty", "the query string names no event_type", "/v1/pixel.gif?event_type=mail_opened")
    event = plan.events.get(query["event_type"])
    types = {field.name: field.type for field in event.fields} if event else {}
    parts: dict[str, Any] = {name: query.pop(name) for name in _ENVELOPE if name in query}
    for name in ("event_time", "sequence"):
        if parts.get(name, "").lstrip("-").isdigit() and len(parts[name]) < 19:
            parts[name] = int(parts[name])
    fields = {name: from_text(text, types[name]) if name in types else text for name, text in query.items()}
    return Sent([build(plan.envelope, parts, fields)])


def answer_pixel(request: Request, accepted: Accepted) -> Response:
    """Respond with the image; the outcome is in a header, because clients do not read an image's body."""
    receipt = accepted.receipts[0]
    outcome = f"x-questlog-outcome: {receipt.outcome} {receipt.reason}".rstrip().encode()
    return Response(200, GIF, b"image/gif", (b"cache-control: no-store", outcome))
