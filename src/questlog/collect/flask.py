"""The Flask extension: `Questlog(app)` records events from views, durably, before the answer leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from blinker import Namespace
from flask import Flask, Response, current_app, g, has_request_context, request

from questlog.collect import Receipt, accept
from questlog.errors import LogUnavailable, QuestlogError
from questlog.pipeline import Pipeline, open_pipeline

_signals = Namespace()
event_accepted = _signals.signal("event-accepted")
event_rejected = _signals.signal("event-rejected")
View = TypeVar("View", bound=Callable[..., Any])
_encoder = msgspec.json.Encoder()


class EventRejected(QuestlogError):
    """The plan says `mode = "reject"` for this event and it does not fit; nothing was recorded."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__(f"{receipt.reason} {receipt.field}".strip(), hint="questlog plan show")
        self.receipt = receipt


class Questlog:
    """Flask extension. `Questlog(app)` or `Questlog().init_app(app)`; one object serves many apps."""

    def __init__(self, app: Flask | None = None, **config: Any) -> None:
        self._config = config
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Attach to *app*. Nothing is opened before the first event, so `--preload` and fork are safe."""
        for key, value in self._config.items():
            app.config[f"QUESTLOG_{key.upper()}"] = value
        app.config.setdefault("QUESTLOG_PROJECT", app.root_path)
        app.config.setdefault("QUESTLOG_ACK", "durable")
        if app.config["QUESTLOG_ACK"] not in ("durable", "background"):
            raise QuestlogError(f"QUESTLOG_ACK is {app.config['QUESTLOG_ACK']!r}", hint="use 'durable' or 'background'")
        app.extensions["questlog"] = _State(app)
        app.after_request(_record_marked)
        app.register_error_handler(LogUnavailable, _refused)


class _State:
    """What one app keeps: its pipeline, opened late, and its background sender if it wants one."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.captured: list[dict[str, Any]] | None = None
        self._pipeline: Pipeline | None = None
        self._background: Any = None

    @property
    def pipeline(self) -> Pipeline:
        with self.lock:
            if self._pipeline is None:
                data = self.app.config.get("QUESTLOG_DATA")
                overrides = {"data": str(data)} if data else {}
                self._pipeline = open_pipeline(Path(self.app.config["QUESTLOG_PROJECT"]), **overrides)
            return self._pipeline

    def record(self, events: list[dict[str, Any]]) -> None:
        """Make *events* durable, or hand them to the background sender; raise if they are refused."""
        if self.captured is not None:
            self.captured.extend(events)
            return
        pipeline = self.pipeline
        headers = dict(request.headers.items()) if has_request_context() else {}
        accepted = accept(
            [_encoder.encode(event) for event in events],
            pipeline.plan,
            received_ms=time.time_ns() // 1_000_000,
            headers=headers,
        )
        if self.app.config["QUESTLOG_ACK"] == "background":
            self._sender().put(accepted.records)
        else:
            pipeline.log.append(accepted.records)
        for event, receipt in zip(events, accepted.receipts, strict=True):
            if receipt.outcome == "rejected":
                event_rejected.send(self.app, event=event, receipt=receipt)
                raise EventRejected(receipt)
            event_accepted.send(self.app, event=event, receipt=receipt)

    def _sender(self) -> Any:
        from questlog.collect.background import BackgroundSender

        with self.lock:
            if self._background is None or not self._background.alive():
                assert self._pipeline is not None
                self._background = BackgroundSender(self._pipeline.log)
            return self._background


def track(event: str, *, player_id: str | None = None, session_id: str | None = None, **fields: Any) -> None:
    """Record *event*; when this returns it is durable (with `ack="durable"`).

    Raises `LogUnavailable` when the log refuses: unhandled, it becomes 503 with Retry-After.
    """
    _state().record([_event(event, player_id, session_id, fields)])


def event(name: str) -> Callable[[View], View]:
    """Mark a view: record *name* when it succeeded (status below 400)."""

    def mark(view: View) -> View:
        from functools import wraps

        @wraps(view)
        def marked(*args: Any, **kwargs: Any) -> Any:
            g.setdefault("_questlog_marked", []).append(name)
            return view(*args, **kwargs)

        return marked  # type: ignore[return-value]

    return mark


def _record_marked(response: Response) -> Response:
    """Record what the view's mark or the plan's route map says, before the answer leaves."""
    state = _state()
    names = list(g.pop("_questlog_marked", ()))
    if response.status_code < 400:
        if (request.url_rule is not None and state.captured is None) or request.url_rule is not None:
            routes = state.pipeline.plan.routes
            mapped = routes.get(f"{request.method} {request.url_rule.rule}")
            if mapped is not None:
                names.append(mapped)
        if names:
            try:
                state.record([_event(name, None, None, {}) for name in names])
            except LogUnavailable as error:
                return _refused(error)
    return response


def _event(name: str, player_id: str | None, session_id: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    body = dict(fields)
    if player_id is not None:
        body["player_id"] = player_id
    if session_id is not None:
        body["session_id"] = session_id
    body["event_type"] = name  # written last: no field can replace what the server says
    return body


def _refused(error: LogUnavailable) -> Response:
    response = Response(f"{error}\n", 503, mimetype="text/plain")
    response.headers["Retry-After"] = str(round(error.retry_after or 1))
    return response


def _state() -> _State:
    state = current_app.extensions.get("questlog")
    if state is None:
        raise QuestlogError("this app has no questlog", hint="call Questlog(app) once")
    assert isinstance(state, _State)
    return state


@contextmanager
def capture_events(app: Flask) -> Iterator[list[dict[str, Any]]]:
    """Collect what *app* would record into a list; nothing is written meanwhile."""
    state = app.extensions["questlog"]
    state.captured = []
    try:
        yield state.captured
    finally:
        state.captured = None
