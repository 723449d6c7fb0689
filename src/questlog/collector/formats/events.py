"""`POST /v1/events`: one JSON event, an array of events, or one per line."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from questlog.collector.formats import Sent, query_of, sent_ms
from questlog.collector.http import Request, Response, refuse
from questlog.plan import Plan
from questlog.record import NOT_JSON

JSON_TYPES = frozenset(
    {"", "application/json", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"}
)
"""Media types accepted as JSON: browsers send text/plain without a preflight, and `curl -d` declares a form."""
LINE_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})
_array = msgspec.json.Decoder(list[msgspec.Raw])
_value = msgspec.json.Decoder(msgspec.Raw)
_SPACE = b" \t\r\n"


def read_events(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Return the events of a request, each as it was sent."""
    media = media_type(request)
    if media not in JSON_TYPES and media not in LINE_TYPES and not media.endswith("+json"):
        return unsupported(media)
    events = split(body, lines=media in LINE_TYPES)
    if isinstance(events, Response):
        return events
    at = request.header(b"x-sent-time") or (query_of(request).get("sent_time", "") if request.query else "")
    return Sent(events, sent_ms(at) if at else None)


def split(body: bytes, *, lines: bool) -> Sequence[bytes] | Response:
    """Return the events in *body*. A body that is not JSON is one event, to be quarantined with a reason."""
    body = body.strip(_SPACE)
    if not body:
        return refuse(
            400, "empty", "the body holds no event", "send a JSON object, an array of objects, or one object per line"
        )
    if lines:
        return _lines(body)
    if body[:1] == b"[":
        try:
            return list(map(bytes, _array.decode(body)))
        except NOT_JSON as error:
            return refuse(400, "not_json", f"the array of events is not valid JSON: {error}", "nothing was recorded")
    if b"\n" in body and not _is_json(body) and _is_json(body.partition(b"\n")[0]):
        return _lines(body)
    return [body]


def _lines(body: bytes) -> list[bytes]:
    return [line for line in (each.strip(_SPACE) for each in body.split(b"\n")) if line]


def _is_json(text: bytes) -> bool:
    try:
        _value.decode(text)
    except NOT_JSON:
        return False
    return True


def media_type(request: Request) -> str:
    """Return the Content-Type without parameters; "" if there is none."""
    value = request.headers.get(b"content-type")
    if value is None or value == b"application/json":
        return "" if value is None else "application/json"
    return value.decode("latin-1").partition(";")[0].strip().lower()


def unsupported(media: str) -> Response:
    """Return the refusal of a media type that this endpoint does not read."""
    return refuse(
        415,
        "unsupported_media_type",
        f"the media type {media[:100]!r} is not supported",
        "application/json or application/x-ndjson",
    )
