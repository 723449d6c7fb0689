"""The collector: a request's events judged, made durable together with others', and only then answered."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from questlog.collect import NEVER_KEPT, Accepted, Receipt, as_text, receive
from questlog.collect.http import Request, Respond, Response, refuse
from questlog.collect.http.body import inflate
from questlog.collect.http.commit import Committer
from questlog.collect.http.limits import LIMITS, Limits
from questlog.collect.recent import RecentIds
from questlog.collect.ways import Read, Sent
from questlog.collect.ways.events import read_events
from questlog.errors import LogUnavailable, QuestlogError
from questlog.plan import Plan

PLAN_SECONDS = 0.1
"""How far the plan may be behind its file."""
OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected")

logger = logging.getLogger("questlog.collect")
_encoder = msgspec.json.Encoder()
Page = Callable[[Request, Respond], None]
"""Answers a request that brings no events."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """How many events had which outcome, and a receipt for each, in the order they were sent."""

    accepted: int
    duplicate: int
    quarantined: int
    rejected: int
    receipts: list[Receipt]


@dataclass(frozen=True, slots=True)
class Way:
    """One way in: how its requests are read, and what they are answered once their events are durable."""

    read: Read
    method: str = "POST"
    answer: Callable[[Request, Accepted], Response] | None = None


class Collector:
    """Keeps the contract of `Handler`. Everything here runs in the loop's thread."""

    def __init__(self, plan: Callable[[], Plan], committer: Committer, limits: Limits = LIMITS) -> None:
        self._read_plan, self._committer, self._limits = plan, committer, limits
        self._recent = RecentIds()
        self._plan: Plan | None = None
        self._look_again = 0.0
        self.ways: dict[str, Way] = {"/v1/events": Way(read_events)}
        self.pages: dict[str, Page] = {"/healthz": _healthz}

    # -- Handler ---------------------------------------------------------------------------------

    def look(self, request: Request) -> Response | None:
        """Return the answer to a request whose headers decide it."""
        way = self.ways.get(request.path)
        if way is not None:
            return None if request.method == way.method else _not_allowed(way.method)
        if request.path in self.pages:
            return None if request.method in ("GET", "HEAD") else _not_allowed("GET, HEAD")
        return refuse(404, "not_found", f"nothing is at {request.path[:100]}", "POST /v1/events; GET /openapi.json")

    def handle(self, request: Request, respond: Respond) -> None:
        """Answer a request, now or when its events are durable; a fault of ours is a 500 and one log line."""
        try:
            way = self.ways.get(request.path)
            if way is None:
                self.pages[request.path](request, respond)
            else:
                self._take(way, request, respond)
        except QuestlogError as error:
            respond(_unavailable(error))
        except Exception:
            logger.exception("stage=collect path=%s", request.path)
            respond(refuse(500, "internal", "this should not have happened", "the collector's log says more"))

    def _take(self, way: Way, request: Request, respond: Respond) -> None:
        """1 read  2 judge  3 append  4 answer, once the events are durable."""
        received_ms = time.time_ns() // 1_000_000
        plan = self.plan
        body = inflate(request, self._limits.max_body_bytes)
        sent = body if isinstance(body, Response) else way.read(request, body, plan)
        if isinstance(sent, Response):
            respond(sent)
            return
        refusal = self._too_much(sent)
        if refusal is not None:
            respond(refusal)
            return
        window_ms = int(plan.dedup_hours * 3_600_000)
        accepted = receive(
            sent.events,
            plan,
            received_ms=received_ms,
            kept=_kept(plan, request.headers),
            sent_ms=sent.at_ms,
            known=lambda event_id: self._recent.knows(event_id, received_ms, window_ms),
            max_event_bytes=self._limits.max_event_bytes,
        )

        def done(error: LogUnavailable | None) -> None:
            if error is not None:
                respond(_unavailable(error))
                return
            if accepted.ids:
                self._recent.add(accepted.ids, received_ms)
            respond(answer_of(request, accepted) if way.answer is None else way.answer(request, accepted))

        if accepted.records:
            self._committer.submit(accepted.records, done)
        else:
            done(None)

    def _too_much(self, sent: Sent) -> Response | None:
        """Return the refusal of a request that holds too many events, or nothing but one that is too large."""
        limits = self._limits
        if len(sent.events) > limits.max_events:
            return refuse(
                413,
                "too_many_events",
                f"{len(sent.events)} events; max_events is {limits.max_events}",
                "smaller batches",
            )
        if len(sent.events) == 1 and len(sent.events[0]) > limits.max_event_bytes:
            return refuse(
                413, "event_too_large", f"{len(sent.events[0])} bytes; max_event_bytes is {limits.max_event_bytes}"
            )
        return None

    @property
    def plan(self) -> Plan:
        """The project's plan, at most `PLAN_SECONDS` behind its file."""
        now = time.monotonic()
        if self._plan is None or now > self._look_again:
            self._plan = self._read_plan()
            self._look_again = now + PLAN_SECONDS
        return self._plan


def answer_of(request: Request, accepted: Accepted) -> Response:
    """Return the receipts; a client that prefers a minimal answer gets those that it has to look at."""
    receipts = list(accepted.receipts)
    count = Counter([receipt.outcome for receipt in receipts])
    headers: tuple[bytes, ...] = ()
    if b"prefer" in request.headers and "return=minimal" in request.header(b"prefer"):
        receipts = [receipt for receipt in receipts if receipt.outcome != "accepted"]
        headers = (b"preference-applied: return=minimal",)
    return Response(
        200,
        _encoder.encode(
            Answer(count["accepted"], count["duplicate"], count["quarantined"], count["rejected"], receipts)
        ),
        headers=headers,
    )


def _kept(plan: Plan, headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the allow-listed headers under the plan's spelling."""
    kept = {}
    for name in plan.headers:
        value = headers.get(name.lower().encode())
        if value is not None and name.lower() not in NEVER_KEPT:
            kept[name] = as_text(value.decode("latin-1"))
    return kept


def _unavailable(error: QuestlogError) -> Response:
    seconds = max(1, round(error.retry_after or 5))
    return refuse(503, "unavailable", str(error), error.hint or "send it again", b"retry-after: %d" % seconds)


def _not_allowed(methods: str) -> Response:
    return refuse(405, "method_not_allowed", f"here it is {methods}", "", b"allow: " + methods.encode())


def _healthz(request: Request, respond: Respond) -> None:
    respond(Response(200, b'{"status":"alive"}'))
