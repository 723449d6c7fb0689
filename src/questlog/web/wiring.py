"""What a plan means for one web app, looked up once per plan and not once per request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from questlog.accept import Receipt, accept_described, as_text, can_reject, header_names
from questlog.errors import QuestlogError
from questlog.plan import Envelope, Plan

_encoder = msgspec.json.Encoder()
_OWN = ("event_type", "event_id", "player_id", "session_id")
_NO_PREFIX = ("CONTENT_TYPE", "CONTENT_LENGTH")


class Judged(NamedTuple):
    """An event that the app described, what became of it, and what to append if it is accepted."""

    body: dict[str, Any]
    receipt: Receipt
    record: bytes


class Pending:
    """Events of one moment on their way to the log, in one step.

    Whoever commits a group encodes it, all at once: in a thread of 64 that just got its turn the same code
    takes twice as long.
    """

    __slots__ = ("bodies", "headers", "judged", "received_ms", "wiring")

    def __init__(self, wiring: Wiring, bodies: Sequence[dict[str, Any]], environ: Mapping[str, Any]) -> None:
        self.wiring, self.bodies = wiring, bodies
        self.headers = [(name, environ.get(key)) for name, key in wiring.headers]  # no other is looked at
        self.received_ms = time.time_ns() // 1_000_000
        self.judged: Sequence[Judged] | None = None

    @classmethod
    def of(cls, parts: Sequence[Pending]) -> Pending:
        """Return the events of several moments as one step."""
        whole = cls(parts[0].wiring, [body for part in parts for body in part.bodies], {})
        whole.judged = [each for part in parts for each in part.judge()]
        return whole

    def judge(self) -> Sequence[Judged]:
        """Encode and judge the events, once; raise what is wrong with a field that code gave."""
        if self.judged is None:
            headers = self._texts()
            self.judged = [self.wiring.accept(body, self.received_ms, headers) for body in self.bodies]
        return self.judged

    @property
    def size(self) -> int:
        """How many bytes it holds, about; what came with a body is judged, so it is known."""
        return sum(len(each.record) for each in self.judged) if self.judged else 500 * len(self.bodies)

    def records(self) -> list[bytes]:
        """Return what to append: nothing of events that were rejected."""
        return [each.record for each in self.judge() if each.receipt.outcome == "accepted"]

    def _texts(self) -> dict[str, str]:
        return {name: value if value.isascii() else as_text(value) for name, value in self.headers if value is not None}


class Wiring:
    """One plan as one app uses it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.routes = plan.routes
        self.events = plan.events
        self.strict = can_reject(plan)
        self.headers = [(name, _environ_key(name)) for name in header_names(plan)]
        self._plain = plan.envelope == Envelope()

    def accept(self, body: dict[str, Any], received_ms: int, headers: dict[str, str]) -> Judged:
        """Accept an event that the app described; nothing is written."""
        receipt, record = accept_described(
            self._encode(body),
            self.plan,
            event_id=body.get("event_id"),
            received_ms=received_ms,
            headers=headers,
            can_reject=self.strict,
        )
        return Judged(body, receipt, record)

    def _encode(self, body: dict[str, Any]) -> bytes:
        """Return an event as the plan's envelope wants it."""
        try:
            return _encoder.encode(body if self._plain else self._enveloped(body))
        except (TypeError, ValueError, OverflowError) as error:
            raise QuestlogError(
                f"event {body.get('event_type')!r} has a field that JSON cannot hold: {error}",
                hint="track() takes text, numbers, truth values, dates, lists and dicts",
            ) from error

    def _enveloped(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return *body* with its envelope where the plan says it stands."""
        names = self.plan.envelope
        found: dict[str, Any] = {}
        for name, value in body.items():
            path = getattr(names, name).split(".") if name in _OWN else [*filter(None, names.fields.split(".")), name]
            place = found
            for parent in path[:-1]:
                place = place.setdefault(parent, {})
            place[path[-1]] = value
        return found


def _environ_key(header: str) -> str:
    key = header.upper().replace("-", "_")
    return key if key in _NO_PREFIX else f"HTTP_{key}"
