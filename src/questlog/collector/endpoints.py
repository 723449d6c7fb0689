"""Every path the collector serves, one row each. Routing, the OpenAPI document and the metrics read this table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from questlog.accept import Accepted
from questlog.collector.formats import Format, Sent, segment
from questlog.collector.formats.cloudevents import is_cloudevent, read_cloudevents
from questlog.collector.formats.events import read_events
from questlog.collector.formats.pixel import answer_pixel, read_pixel
from questlog.collector.formats.receipts import answer_receipts
from questlog.collector.http import Page, Request, Response
from questlog.collector.pages import healthz
from questlog.collector.script import script
from questlog.plan import Plan

Access = Literal["key", "key_unless_local", "public"]
"""Who may use an endpoint: holders of a write key, those and any client on this machine, or everyone."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages that need parts of the running process; `serve` makes them."""

    readyz: Page
    metrics: Page
    openapi: Page


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path: how it is served, and what the OpenAPI document says about it.

    An endpoint either takes events, with *read* and *answer*, or serves a *page*. Its path is its label in the
    metrics. *bodies* maps each media type to a JSON Schema; *response* names the response's schema in `openapi`.
    """

    path: str
    method: Literal["GET", "POST"]
    summary: str
    read: Format | None = None
    answer: Callable[[Request, Accepted], Response] = answer_receipts
    page: Callable[[Pages], Page] | None = None
    access: Access = "key"
    bodies: Mapping[str, Any] = field(default_factory=dict)
    response: str = "receipts"


def _read_events(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    return (read_cloudevents if is_cloudevent(request) else read_events)(request, body, plan)


_ANY_EVENT = {"type": "object", "description": "One event, as the plan's envelope describes it."}
_SEGMENT = {"type": "object", "description": "A message as Segment's SDKs send it."}
_CLOUD = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {name: {"type": "string"} for name in ("specversion", "id", "source", "type", "time", "subject")},
}

ENDPOINTS = (
    Endpoint(
        "/v1/events", "POST", "Events: one, an array, or one per line; CloudEvents 1.0 too.",
        read=_read_events,
        bodies={
            "application/json": {"oneOf": [_ANY_EVENT, {"type": "array", "items": _ANY_EVENT}]},
            "application/x-ndjson": {"type": "string", "description": "One JSON event per line."},
            "text/plain": {"type": "string", "description": "JSON, as navigator.sendBeacon sends it."},
            "application/cloudevents+json": _CLOUD,
            "application/cloudevents-batch+json": {"type": "array", "items": _CLOUD},
        },
    ),
    *(
        Endpoint(
            f"/v1/{call}", "POST", f"Segment's `{call}` call.",
            read=segment.reader(call), bodies={"application/json": _SEGMENT},
        )
        for call in segment.CALLS
    ),
    Endpoint(
        "/v1/batch", "POST", "Segment's `batch` call: several messages.",
        read=segment.read_batch,
        bodies={
            "application/json": {
                "type": "object", "required": ["batch"],
                "properties": {"batch": {"type": "array", "items": _SEGMENT}, "sentAt": {"type": "string"}},
            }
        },
    ),
    Endpoint(
        "/v1/pixel.gif", "GET", "One event in a query string, for e-mail.",
        read=read_pixel, answer=answer_pixel, response="gif",
    ),
    Endpoint(
        "/v1/questlog.js", "GET", "The client for web pages.",
        page=lambda _: script, access="public", response="script",
    ),
    Endpoint(
        "/healthz", "GET", "Liveness: the process answers.",
        page=lambda _: healthz, access="public", response="status",
    ),
    Endpoint(
        "/readyz", "GET", "Readiness: the log was just written and read back.",
        page=lambda pages: pages.readyz, access="public", response="status",
    ),
    Endpoint(
        "/metrics", "GET", "Prometheus metrics of all workers.",
        page=lambda pages: pages.metrics, access="key_unless_local", response="text",
    ),
    Endpoint(
        "/openapi.json", "GET", "This document.",
        page=lambda pages: pages.openapi, access="public", response="document",
    ),
)  # fmt: skip
