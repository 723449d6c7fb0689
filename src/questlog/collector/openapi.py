"""The collector's OpenAPI 3.1 document. The reference page `collector.md` is generated from the same tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from questlog import __version__
from questlog.accept import OUTCOMES
from questlog.collector.endpoints import ENDPOINTS, Endpoint
from questlog.collector.http import Page, Response

STATUSES: Mapping[int, str] = {
    400: "The request cannot be read; nothing in it is recorded.",
    401: "The write key is missing, unknown or revoked, or the signature is not valid.",
    403: "The write key does not allow pages of this origin.",
    404: "Nothing is at this path.",
    405: "The path does not support this method; `Allow` lists those it does.",
    408: "The request took too long to arrive.",
    413: "Too large; the message names the limit.",
    415: "The media type or content coding is not supported.",
    417: "An `Expect` other than `100-continue`.",
    429: "The write key has exceeded its rate; `Retry-After` gives the seconds to wait.",
    431: "The headers are too large or too many.",
    500: "Internal error; see the collector's log.",
    501: "A transfer coding other than `chunked`.",
    503: "The events cannot be made durable now; `Retry-After` gives the seconds to wait.",
    505: "An HTTP version other than 1.1 or 1.0.",
}
ERRORS: Mapping[str, str] = {
    "bad_request": "The request is not valid HTTP/1.1, or uses a part of it that is not supported.",
    "body_too_large": "The body exceeds `max_body_bytes`, as sent or decompressed.",
    "busy": "Too many connections, or too many request bodies are waiting. Send again later.",
    "empty": "The request carries no event.",
    "event_too_large": "The request's only event exceeds `max_event_bytes`.",
    "forbidden_origin": "The write key does not allow pages of this origin.",
    "head_too_large": "The request line and headers exceed `max_head_bytes` or `max_headers`.",
    "internal": "A fault of the collector; its log has the details.",
    "method_not_allowed": "The path does not support this method.",
    "not_a_batch": "The body is not a JSON object with an array named `batch`.",
    "not_decodable": "The body is not what `Content-Encoding` declares, or has over 10,000 members or frames.",
    "not_found": "Nothing is at this path.",
    "not_json": "The body is not the JSON that this path expects.",
    "too_fast": "The write key has exceeded its rate. Send again after `Retry-After`.",
    "too_many_events": "The request carries more than `max_events` events.",
    "too_slow": "The request took longer to arrive than `head_seconds` or `body_seconds`.",
    "unauthorized": "The write key is missing, unknown or revoked, or the signature is not valid.",
    "unavailable": "The events cannot be made durable now, for example because the disk is full. Send again later.",
    "unsupported_encoding": "The `Content-Encoding` is neither `gzip` nor `zstd`.",
    "unsupported_media_type": "The `Content-Type` is not one that this path reads.",
}
"""Every code a refusal can have. Codes are a contract: clients rely on them."""
_SCHEMAS: Mapping[str, Any] = {
    "Receipt": {
        "type": "object",
        "required": ["event_id", "outcome", "reason", "field", "detail"],
        "properties": {
            "event_id": {"type": "string"},
            "outcome": {"enum": list(OUTCOMES)},
            "reason": {
                "type": "string",
                "description": "A stable code; empty if accepted or a duplicate.",
            },
            "field": {"type": "string"},
            "detail": {"type": "string"},
        },
    },
    "Receipts": {
        "type": "object",
        "required": ["accepted", "duplicate", "quarantined", "rejected", "receipts"],
        "properties": {
            **{
                name: {"type": "integer", "minimum": 0} for name in ("accepted", "duplicate", "quarantined", "rejected")
            },
            "receipts": {"type": "array", "items": {"$ref": "#/components/schemas/Receipt"}},
        },
    },
    "Error": {
        "type": "object",
        "required": ["error", "message", "hint"],
        "properties": {
            "error": {"enum": list(ERRORS), "description": "A stable code."},
            "message": {"type": "string"},
            "hint": {"type": "string", "description": "What to do next; may be empty."},
        },
    },
    "Status": {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
}
_RESPONSES: Mapping[str, tuple[str, Any]] = {
    "receipts": ("application/json", {"$ref": "#/components/schemas/Receipts"}),
    "status": ("application/json", {"$ref": "#/components/schemas/Status"}),
    "gif": ("image/gif", {"type": "string"}),
    "script": ("text/javascript", {"type": "string"}),
    "text": ("text/plain", {"type": "string"}),
    "document": ("application/json", {"type": "object"}),
}
HEADERS: Mapping[str, str] = {
    "Content-Encoding": "`gzip` or `zstd`, if the body is compressed.",
    "X-Sent-Time": "When the request was sent, by the sender's clock: milliseconds since 1970, or ISO 8601.",
    "Prefer": "`return=minimal`: no receipts for events that were simply accepted.",
    "Authorization": "`Bearer KEY`, or Basic with the key as user name and no password, as Segment's SDKs send it.",
    "X-Write-Key": "The key, if `Authorization` cannot be set; `?key=` for images and beacons.",
    "X-Signature-Time": "For keys with a secret: seconds since 1970, within 300 of the collector's clock.",
    "X-Signature": "Hex HMAC-SHA256, with the secret, of that time, a dot, and the body as sent.",
}
SENT_HEADERS = {name: HEADERS[name] for name in ("X-Sent-Time", "Prefer")}
"""The headers that the document lists with each operation; the others are security schemes, or HTTP's own."""


def document_page() -> Page:
    """Return the page that serves the document."""
    response = Response(200, json.dumps(document()).encode())
    return lambda request, respond: respond(response)


def document(endpoints: Iterable[Endpoint] = ENDPOINTS) -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, Any] = {}
    for each in endpoints:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key as user name, without a password."},
        "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "questlog collector",
            "version": __version__,
            "description": "After a 2xx response the events are durable, and in the very next query.",
        },
        "paths": paths,
        "components": {"schemas": dict(_SCHEMAS), "securitySchemes": schemes},
    }


def _operation(each: Endpoint) -> dict[str, Any]:
    media, schema = _RESPONSES[each.response]
    responses = {"200": {"description": "Success.", "content": {media: {"schema": schema}}}}
    for status, meaning in STATUSES.items():
        problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        responses[str(status)] = {"description": meaning, "content": problem}
    operation: dict[str, Any] = {"summary": each.summary, "responses": responses}
    if each.access != "public":
        operation["security"] = [{}, {"bearer": []}, {"basic": []}, {"header": []}, {"query": []}]
    if each.bodies:
        operation["requestBody"] = {
            "required": True,
            "content": {name: {"schema": s} for name, s in each.bodies.items()},
        }
        operation["parameters"] = [
            {"name": name, "in": "header", "required": False, "description": meaning, "schema": {"type": "string"}}
            for name, meaning in SENT_HEADERS.items()
        ]
    if each.response == "gif":
        operation["parameters"] = [
            {"name": "event_type", "in": "query", "required": True, "schema": {"type": "string", "minLength": 1}}
        ]
    return operation
