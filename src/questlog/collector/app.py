"""The collector: a request's events judged, made durable together with others', and only then answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from questlog.accept import NEVER_KEPT, OUTCOMES, Accepted, Receipt, as_text, receive
from questlog.collector.formats import Read, Sent, segment
from questlog.collector.formats.cloudevents import is_cloudevent, read_cloudevents
from questlog.collector.formats.events import read_events
from questlog.collector.formats.pixel import answer_pixel, read_pixel
from questlog.collector.http import Request, Respond, Response, refuse
from questlog.collector.http.body import inflate
from questlog.collector.http.commit import Committer
from questlog.collector.http.limits import LIMITS, Limits
from questlog.collector.keys.gate import LOOPBACK, Gate
from questlog.collector.metrics import OTHER, Metrics
from questlog.collector.pages import healthz
from questlog.collector.recent import RecentIds
from questlog.errors import LogUnavailable, QuestlogError
from questlog.plan import Plan

PLAN_SECONDS = 0.1
"""How far the plan may be behind its file."""

logger = logging.getLogger("questlog.collector")
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


class Collector:
    """Keeps the contract of `Handler`. Everything here runs in the loop's thread."""

    def __init__(
        self,
        plan: Callable[[], Plan],
        committer: Committer,
        gate: Gate,
        metrics: Metrics,
        pages: Mapping[str, Page],
        limits: Limits = LIMITS,
    ) -> None:
        self._read_plan, self._committer, self._gate, self._metrics = plan, committer, gate, metrics
        self._limits, self._pages = limits, {"/healthz": healthz, **pages}
        self._recent = RecentIds()
        self._plan: Plan | None = None
        self._window_ms = 0
        self._kept: list[tuple[bytes, str]] = []
        self._look_again = 0.0

    # -- Handler ---------------------------------------------------------------------------------

    def look(self, request: Request) -> Response | None:
        """Return the answer to a request whose headers decide it; nobody enters while the keys cannot be read."""
        try:
            refusal = self._look(request)
            if refusal is not None:
                refusal = self._readable(request, refusal)
        except QuestlogError as error:
            refusal = _unavailable(error)
        except Exception:
            refusal = _fault(self._known(request.path))
        if refusal is not None:
            self._metrics.answered(self._known(request.path), refusal.status, 0)
        return refusal

    def _look(self, request: Request) -> Response | None:
        way = WAYS.get(request.path)
        if way is not None:
            if request.method == "OPTIONS":
                return self._gate.preflight(request, way.method)
            return self._gate.look(request) if request.method == way.method else _not_allowed(way.method)
        if request.path in self._pages:
            if request.method not in ("GET", "HEAD"):
                return _not_allowed("GET, HEAD")
            inside = request.path not in _INSIDE or request.peer in LOOPBACK
            return None if inside else self._gate.look(request)
        return refuse(404, "not_found", "nothing is at this path", "POST /v1/events; GET /openapi.json")

    def handle(self, request: Request, respond: Respond) -> None:
        """Answer a request, now or when its events are durable; a fault of ours is a 500 and one log line."""
        began, path = time.perf_counter(), self._known(request.path)

        def answer(response: Response) -> None:
            self._metrics.answered(path, response.status, time.perf_counter() - began)
            respond(self._readable(request, response))

        try:
            way = WAYS.get(request.path)
            if way is None:
                self._pages[request.path](request, answer)
            else:
                self._take(way, request, answer)
        except QuestlogError as error:
            answer(_unavailable(error))
        except Exception:
            answer(_fault(path))

    def _take(self, way: Way, request: Request, respond: Respond) -> None:
        """1 read  2 judge  3 append  4 answer, once the events are durable."""
        received_ms = time.time_ns() // 1_000_000
        plan, window_ms = self.plan, self._window_ms
        body = inflate(request, self._limits.max_body_bytes)
        sent = body if isinstance(body, Response) else way.read(request, body, plan)
        if isinstance(sent, Response):
            respond(sent)
            return
        refusal = self._too_much(request, sent)
        if refusal is not None:
            respond(refusal)
            return
        accepted = receive(
            sent.events,
            plan,
            received_ms=received_ms,
            kept=_kept(self._kept, request.headers) if self._kept else {},
            sent_ms=sent.at_ms,
            known=lambda event_id: self._recent.knows(event_id, received_ms, window_ms),
            max_event_bytes=self._limits.max_event_bytes,
        )

        def done(error: LogUnavailable | None) -> None:
            if error is not None:
                self._gate.not_recorded(request)
                respond(_unavailable(error))
                return
            if accepted.ids:
                self._recent.add(accepted.ids, received_ms)
            self._metrics.received(accepted.receipts)
            respond(way.answer(request, accepted))

        self._gate.count(request, len(sent.events))
        if accepted.records:
            self._committer.submit(accepted.records, done)
        else:
            done(None)

    def _too_much(self, request: Request, sent: Sent) -> Response | None:
        """Return the refusal of too many events, of nothing but one that is too large, or of a bad signature."""
        limits, count = self._limits, len(sent.events)
        if count > limits.max_events:
            return refuse(413, "too_many_events", f"{count} events; max_events is {limits.max_events}", "send less")
        if count == 1 and len(sent.events[0]) > limits.max_event_bytes:
            size = len(sent.events[0])
            return refuse(413, "event_too_large", f"{size} bytes; max_event_bytes is {limits.max_event_bytes}")
        if request.key is None:
            return None
        return self._gate.too_fast(request.key) or self._gate.check_body(request)

    def _readable(self, request: Request, response: Response) -> Response:
        """Let a page of an allowed origin read the answer."""
        if b"origin" not in request.headers or response.status == 204:
            return response
        return msgspec.structs.replace(response, headers=response.headers + self._gate.cors(request))

    def _known(self, path: str) -> str:
        """Return a path for a count: what nobody serves is one thing, however it is called."""
        return path if path in WAYS or path in self._pages else OTHER

    @property
    def plan(self) -> Plan:
        """The project's plan, at most `PLAN_SECONDS` behind its file."""
        now = time.monotonic()
        if self._plan is None or now > self._look_again:
            self._use(self._read_plan())
            self._look_again = now + PLAN_SECONDS
        assert self._plan is not None
        return self._plan

    def _use(self, plan: Plan) -> None:
        """Work out once what each request needs of a plan."""
        if plan is not self._plan:
            self._plan, self._window_ms = plan, int(plan.dedup_hours * 3_600_000)
            names = [name for name in plan.headers if name.lower() not in NEVER_KEPT]
            self._kept = [(name.lower().encode(), name) for name in names]


def warm_up(plan: Plan) -> None:
    """Judge an event before the first one comes: what that imports takes half a second, and stops the loop."""
    receive([b"{}"], plan, received_ms=0, kept={})


def answer_of(request: Request, accepted: Accepted) -> Response:
    """Return the receipts; a client that prefers a minimal answer gets those that it has to look at."""
    receipts = list(accepted.receipts)
    outcomes = [receipt.outcome for receipt in receipts]
    counted, duplicate, quarantined, rejected = map(outcomes.count, OUTCOMES)
    headers: tuple[bytes, ...] = ()
    if b"prefer" in request.headers and "return=minimal" in request.header(b"prefer"):
        receipts = [receipt for receipt in receipts if receipt.outcome != "accepted"]
        headers = (b"preference-applied: return=minimal",)
    return Response(
        200,
        _encoder.encode(Answer(counted, duplicate, quarantined, rejected, receipts)),
        headers=headers,
    )


def _read_events(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    return (read_cloudevents if is_cloudevent(request) else read_events)(request, body, plan)


@dataclass(frozen=True, slots=True)
class Way:
    """One way in: how its requests are read, and what they are answered once their events are durable."""

    read: Read
    method: str = "POST"
    answer: Callable[[Request, Accepted], Response] = answer_of


WAYS: Mapping[str, Way] = {
    "/v1/events": Way(_read_events),
    **{f"/v1/{call}": Way(segment.reader(call)) for call in segment.CALLS},
    "/v1/batch": Way(segment.read_batch),
    "/v1/pixel.gif": Way(read_pixel, "GET", answer_pixel),
}
_INSIDE = ("/metrics",)
"""Pages that only this machine sees without a key."""


def _kept(names: Sequence[tuple[bytes, str]], headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the allow-listed headers under the plan's spelling."""
    return {name: as_text(headers[sent].decode("latin-1")) for sent, name in names if sent in headers}


def _unavailable(error: QuestlogError) -> Response:
    seconds = max(1, round(error.retry_after or 5))
    return refuse(503, "unavailable", str(error), error.hint or "send it again", b"retry-after: %d" % seconds)


def _fault(path: str) -> Response:
    """Log the exception at hand, and return what its request is answered."""
    logger.exception("stage=collect path=%s", path)
    return refuse(500, "internal", "this should not have happened", "the collector's log says more")


def _not_allowed(methods: str) -> Response:
    return refuse(405, "method_not_allowed", f"here it is {methods}", "", b"allow: " + methods.encode())
