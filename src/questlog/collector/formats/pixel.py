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
_OWN = ("event_type", "event_id", "event_time", "player_id", "session_id", "sequence")


def read_pixel(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Return the event of a query string; its texts become the numbers and truth values that the plan wants."""
    found = query_of(request)
    found.pop("key", None)
    if not found.get("event_type"):
        return refuse(400, "empty", "the query string names no event_type", "/v1/pixel.gif?event_type=mail_opened")
    event = plan.events.get(found["event_type"])
    types = {field.name: field.type for field in event.fields} if event else {}
    own: dict[str, Any] = {name: found.pop(name) for name in _OWN if name in found}
    for name in ("event_time", "sequence"):
        if own.get(name, "").lstrip("-").isdigit() and len(own[name]) < 19:
            own[name] = int(own[name])
    fields = {name: from_text(text, types[name]) if name in types else text for name, text in found.items()}
    return Sent([build(plan.envelope, own, fields)])


def answer_pixel(request: Request, accepted: Accepted) -> Response:
    """Return the picture, and what became of the event in a header: nobody reads the body of a picture."""
    receipt = accepted.receipts[0]
    outcome = f"x-questlog-outcome: {receipt.outcome} {receipt.reason}".rstrip().encode()
    return Response(200, GIF, b"image/gif", (b"cache-control: no-store", outcome))
