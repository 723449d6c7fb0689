"""The collector as an OpenAPI 3.1 document: every path, what it takes, what it answers. The reference is made of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from questlog import __version__
from questlog.accept import OUTCOMES
from questlog.collector.endpoints import ENDPOINTS, Endpoint
from questlog.collector.http import Page, Response

REFUSALS: Mapping[int, str] = {
    400: "The request cannot be read; nothing of it is recorded.",
    401: "No write key, a wrong or revoked one, or a signature that does not hold.",
    403: "The write key is not for pages of this origin.",
    404: "Nothing is at this path.",
    405: "Another method is wanted; `Allow` names it.",
    408: "The request took too long to arrive.",
    413: "Too large; the message names the limit.",
    415: "A media type or content coding that is not read here.",
    417: "An `Expect` other than `100-continue`.",
    429: "The write key has sent more than its rate; `Retry-After` says when it may again.",
    431: "Headers too large or too many.",
    500: "A fault of the collector; its log says more.",
    501: "A transfer coding other than `chunked`.",
    503: "Not durable now (the disk is full or too much waits); `Retry-After` says when to try again.",
    505: "Another HTTP version than 1.1 or 1.0.",
}
_SCHEMAS: Mapping[str, Any] = {
    "Receipt": {
        "type": "object",
        "required": ["event_id", "outcome", "reason", "field", "detail"],
        "properties": {
            "event_id": {"type": "string"},
            "outcome": {"enum": list(OUTCOMES)},
            "reason": {"type": "string", "description": "A stable code; empty if there is nothing to say."},
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
    "Problem": {
        "type": "object",
        "required": ["error", "message", "hint"],
        "properties": {name: {"type": "string"} for name in ("error", "message", "hint")},
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
    "X-Sent-Time": "When the sender sends this, by its own clock: milliseconds since 1970, or ISO 8601.",
    "Prefer": "`return=minimal`: receipts only for events that were not simply accepted.",
    "Authorization": "`Bearer KEY`, or Basic with the key as user name and no password, as Segment's SDKs send it.",
    "X-Write-Key": "The key, where `Authorization` is not at hand; `?key=` for pictures and beacons.",
    "X-Signature-Time": "For keys with a secret: seconds since 1970, at most 300 from the collector's clock.",
    "X-Signature": "Hex HMAC-SHA256, by the secret, of that time, a dot, and the body as it is sent.",
}
SENT_HEADERS = {name: HEADERS[name] for name in ("X-Sent-Time", "Prefer")}
"""Those that the document lists with each operation; the others are its security schemes, or HTTP's own."""


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
        "basic": {"type": "http", "scheme": "basic", "description": "The key as user name, no password."},
        "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "questlog collector",
            "version": __version__,
            "description": "A 2xx answer means: durable, and in the very next query.",
        },
        "paths": paths,
        "components": {"schemas": dict(_SCHEMAS), "securitySchemes": schemes},
    }


def _operation(each: Endpoint) -> dict[str, Any]:
    media, schema = _RESPONSES[each.response]
    responses = {"200": {"description": "Done.", "content": {media: {"schema": schema}}}}
    for status, meaning in REFUSALS.items():
        problem = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
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
