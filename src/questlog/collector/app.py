"""The collector: validates a request's events, makes them durable together with others', and only then answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from questlog.accept import accept, as_text, header_names
from questlog.collector.endpoints import ENDPOINTS, Endpoint, Pages
from questlog.collector.formats import Format, Sent
from questlog.collector.http import Request, Respond, Response, refuse
from questlog.collector.http.body import inflate
from questlog.collector.http.commit import Committer
from questlog.collector.http.limits import LIMITS, Limits
from questlog.collector.keys.authenticator import LOOPBACK, Authenticator
from questlog.collector.metrics import OTHER, Metrics
from questlog.collector.recent import RecentIds
from questlog.errors import LogUnavailable, QuestlogError
from questlog.plan import Plan

PLAN_SECONDS = 0.1
"""How far the plan may be behind its file."""

logger = logging.getLogger("questlog.collector")


class Collector:
    """Implements `Handler`. Everything here runs in the event loop's thread."""

    def __init__(
        self,
        plan: Callable[[], Plan],
        committer: Committer,
        authenticator: Authenticator,
        metrics: Metrics,
        pages: Pages,
        endpoints: Iterable[Endpoint] = ENDPOINTS,
        limits: Limits = LIMITS,
    ) -> None:
        self._read_plan, self._committer, self._metrics = plan, committer, metrics
        self._authenticator, self._limits = authenticator, limits
        self._endpoints = {each.path: each for each in endpoints}
        self._pages = {path: each.page(pages) for path, each in self._endpoints.items() if each.page is not None}
        self._recent = RecentIds()
        self._plan: Plan | None = None
        self._window_ms = 0
        self._kept: list[tuple[bytes, str]] = []
        self._plan_expires = 0.0

    # -- Handler ---------------------------------------------------------------------------------

    def early_response(self, request: Request) -> Response | None:
        """Return the response if path, method or key decide it. Fails closed if the key store is unreadable."""
        try:
            response = self._authorize(request)
            if response is not None:
                response = self._with_cors(request, response)
        except QuestlogError as error:
            response = _unavailable(error)
        except Exception:
            response = _internal_error(self._label(request.path))
        if response is not None:
            self._metrics.answered(self._label(request.path), response.status, 0)
        return response

    def _authorize(self, request: Request) -> Response | None:
        endpoint = self._endpoints.get(request.path)
        if endpoint is None:
            return refuse(404, "not_found", "nothing is at this path", "POST /v1/events; GET /openapi.json")
        if endpoint.read is not None:
            if request.method == "OPTIONS":
                return self._authenticator.preflight(request, endpoint.method)
            if request.method != endpoint.method:
                return _not_allowed(endpoint.method)
        elif request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        if endpoint.access == "public" or (endpoint.access == "key_unless_local" and request.peer in LOOPBACK):
            return None
        return self._authenticator.authorize(request)

    def handle(self, request: Request, respond: Respond) -> None:
        """Answer a request, now or once its events are durable; an unexpected exception is a 500 and a log entry."""
        began, label = time.perf_counter(), self._label(request.path)

        def answer(response: Response) -> None:
            self._metrics.answered(label, response.status, time.perf_counter() - began)
            respond(self._with_cors(request, response))

        try:
            endpoint = self._endpoints[request.path]
            if endpoint.read is None:
                self._pages[request.path](request, answer)
            else:
                self._collect(endpoint, endpoint.read, request, answer)
        except QuestlogError as error:
            answer(_unavailable(error))
        except Exception:
            answer(_internal_error(label))

    def _collect(self, endpoint: Endpoint, read: Format, request: Request, respond: Respond) -> None:
        """1 read  2 validate  3 append  4 answer, once the events are durable."""
        received_ms = time.time_ns() // 1_000_000
        plan, window_ms = self.plan, self._window_ms
        body = inflate(request, self._limits.max_body_bytes)
        sent = body if isinstance(body, Response) else read(request, body, plan)
        if isinstance(sent, Response):
            respond(sent)
            return
        refusal = self._refuse_all(request, sent)
        if refusal is not None:
            respond(refusal)
            return
        accepted = accept(
            sent.events,
            plan,
            received_ms=received_ms,
            headers=_kept(self._kept, request.headers) if self._kept else {},
            sent_ms=sent.at_ms,
            is_duplicate=lambda event_id: self._recent.contains(event_id, received_ms, window_ms),
            max_event_bytes=self._limits.max_event_bytes,
        )

        def done(error: LogUnavailable | None) -> None:
            if error is not None:
                self._authenticator.release_signature(request)
                respond(_unavailable(error))
                return
            if accepted.ids:
                self._recent.add(accepted.ids, received_ms)
            self._metrics.received(accepted.receipts)
            respond(endpoint.answer(request, accepted))

        self._authenticator.count_events(request, len(sent.events))
        if accepted.records:
            self._committer.submit(accepted.records, done)
        else:
            done(None)

    def _refuse_all(self, request: Request, sent: Sent) -> Response | None:
        """Return a refusal for too many events, a lone event that is too large, an exceeded rate or a bad signature."""
        limits, count = self._limits, len(sent.events)
        if count > limits.max_events:
            return refuse(
                413, "too_many_events", f"{count} events; max_events is {limits.max_events}", "send smaller batches"
            )
        if count == 1 and len(sent.events[0]) > limits.max_event_bytes:
            size = len(sent.events[0])
            return refuse(413, "event_too_large", f"{size} bytes; max_event_bytes is {limits.max_event_bytes}")
        if request.key is None:
            return None
        return self._authenticator.check_rate(request.key) or self._authenticator.check_signature(request)

    def _with_cors(self, request: Request, response: Response) -> Response:
        """Let a page of an allowed origin read the response."""
        if b"origin" not in request.headers or response.status == 204:
            return response
        return msgspec.structs.replace(response, headers=response.headers + self._authenticator.cors_headers(request))

    def _label(self, path: str) -> str:
        """Return a path's label in the metrics: all paths that are not served share one."""
        return path if path in self._endpoints else OTHER

    @property
    def plan(self) -> Plan:
        """The project's plan, at most `PLAN_SECONDS` behind its file."""
        now = time.monotonic()
        if self._plan is None or now > self._plan_expires:
            self._use(self._read_plan())
            self._plan_expires = now + PLAN_SECONDS
        assert self._plan is not None
        return self._plan

    def _use(self, plan: Plan) -> None:
        """Derive from a new plan, once, what each request needs of it."""
        if plan is not self._plan:
            self._plan, self._window_ms = plan, int(plan.dedup_hours * 3_600_000)
            self._kept = [(name.lower().encode(), name) for name in header_names(plan)]


def warm_up(plan: Plan) -> None:
    """Validate one event before any arrives: the imports this triggers would block the event loop for 0.5 s."""
    accept([b"{}"], plan, received_ms=0)


def _kept(names: Sequence[tuple[bytes, str]], headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the allow-listed headers under the plan's spelling."""
    return {name: as_text(headers[sent].decode("latin-1")) for sent, name in names if sent in headers}


def _unavailable(error: QuestlogError) -> Response:
    return refuse(
        503, "unavailable", str(error), error.hint or "send it again", b"retry-after: %d" % error.retry_after_seconds
    )


def _internal_error(label: str) -> Response:
    """Log the current exception and return the 500 for its request."""
    logger.exception("stage=collect path=%s", label)
    return refuse(500, "internal", "internal error", "see the collector's log")


def _not_allowed(methods: str) -> Response:
    return refuse(405, "method_not_allowed", f"this path takes {methods} only", "", b"allow: " + methods.encode())
