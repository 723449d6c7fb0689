"""Events on their way from a request to the log: encoded in the plan's envelope and accepted, once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from questlog.accept import Receipt, accept_described, as_text, can_reject, header_names
from questlog.errors import QuestlogError
from questlog.plan import Envelope, Plan

_ENVELOPE_FIELDS = ("event_type", "event_id", "player_id", "session_id")
_HEADERS_WITHOUT_PREFIX = ("CONTENT_TYPE", "CONTENT_LENGTH")
_encoder = msgspec.json.Encoder()


class BatchItem(NamedTuple):
    """One event of a batch: the app's description, its receipt, and its record, empty if it is rejected."""

    body: dict[str, Any]
    receipt: Receipt
    record: bytes


class EventBatch:
    """Events that are recorded in one step: a batch in flight from a request to the log.

    It is encoded by the thread that commits it, together with the others of its group. In one of 64 threads that has
    just been scheduled, the same code takes twice as long.
    """

    __slots__ = ("bodies", "headers", "items", "plan", "received_ms")

    def __init__(self, plan: PreparedPlan, bodies: Sequence[dict[str, Any]], environ: Mapping[str, Any]) -> None:
        self.plan, self.bodies = plan, bodies
        self.headers = [(name, environ.get(key)) for name, key in plan.headers]  # no other header is read
        self.received_ms = time.time_ns() // 1_000_000
        self.items: Sequence[BatchItem] | None = None

    @classmethod
    def merge(cls, batches: Sequence[EventBatch]) -> EventBatch:
        """Return the events of several batches as one batch."""
        merged = cls(batches[0].plan, [body for batch in batches for body in batch.bodies], {})
        merged.items = [item for batch in batches for item in batch.accept()]
        return merged

    def accept(self) -> Sequence[BatchItem]:
        """Accept the events, once. Raise if the app's code set a field that JSON cannot hold."""
        if self.items is None:
            headers = {
                name: value if value.isascii() else as_text(value) for name, value in self.headers if value is not None
            }
            self.items = [self.plan.accept(body, self.received_ms, headers) for body in self.bodies]
        return self.items

    @property
    def size(self) -> int:
        """About how many bytes it holds. A batch with fields from a request body is accepted early, so its is exact."""
        return sum(len(item.record) for item in self.items) if self.items else 500 * len(self.bodies)

    def records(self) -> list[bytes]:
        """Return the records to append: those of events that are not rejected."""
        return [item.record for item in self.accept() if item.receipt.outcome == "accepted"]


class PreparedPlan:
    """A plan as one web app uses it, prepared once per plan and not once per request."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.routes = plan.routes
        self.events = plan.events
        self.can_reject = can_reject(plan)
        self.headers = [(name, _environ_key(name)) for name in header_names(plan)]
        self._is_flat = plan.envelope == Envelope()

    def accept(self, body: dict[str, Any], received_ms: int, headers: dict[str, str]) -> BatchItem:
        """Accept an event that the app described. Nothing is written."""
        receipt, record = accept_described(
            self._encode(body),
            self.plan,
            event_id=body.get("event_id"),
            received_ms=received_ms,
            headers=headers,
            can_reject=self.can_reject,
        )
        return BatchItem(body, receipt, record)

    def _encode(self, body: dict[str, Any]) -> bytes:
        """Return the event as JSON, in the plan's envelope."""
        try:
            return _encoder.encode(body if self._is_flat else self._in_envelope(body))
        except (TypeError, ValueError, OverflowError) as error:
            raise QuestlogError(
                f"event {body.get('event_type')!r} has a field that JSON cannot hold: {error}",
                hint="track() takes strings, numbers, booleans, dates, lists and dicts",
            ) from error

    def _in_envelope(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return *body* with each value at the path that the plan's envelope gives it."""
        names = self.plan.envelope
        event: dict[str, Any] = {}
        for name, value in body.items():
            is_envelope = name in _ENVELOPE_FIELDS
            path = getattr(names, name).split(".") if is_envelope else [*filter(None, names.fields.split(".")), name]
            parent = event
            for part in path[:-1]:
                parent = parent.setdefault(part, {})
            parent[path[-1]] = value
        return event


def _environ_key(header: str) -> str:
    key = header.upper().replace("-", "_")
    return key if key in _HEADERS_WITHOUT_PREFIX else f"HTTP_{key}"
