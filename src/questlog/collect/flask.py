"""The Flask extension: `Questlog(app)` records events from views, durably, before the answer leaves."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import msgspec
from blinker import Namespace
from flask import Flask, Response, current_app, g, has_request_context, request
from werkzeug.local import LocalProxy

from questlog.collect import NEVER_KEPT, Receipt, accept
from questlog.collect.request import fields_of
from questlog.collect.state import Capture, State
from questlog.errors import EventRejected, LogUnavailable, QuestlogError
from questlog.plan import Plan

logger = logging.getLogger("questlog.flask")
_signals = Namespace()
event_accepted = _signals.signal("event-accepted", "Sent with `event` and `receipt` once an event is recorded.")
event_rejected = _signals.signal("event-rejected", "Sent with `event` and `receipt` when the plan refuses an event.")
event_refused = _signals.signal("event-refused", "Sent with `event` and `error` when the log refuses an event.")
View = TypeVar("View", bound=Callable[..., Any])
_encoder = msgspec.json.Encoder()
_MARKED = "_questlog_marked"


class Questlog:
    """Flask extension. `Questlog(app)` or `Questlog().init_app(app)`; one object serves many apps.

    Keyword arguments become config keys: `Questlog(app, ack="background")` sets `QUESTLOG_ACK`.
    """

    def __init__(self, app: Flask | None = None, **config: Any) -> None:
        self._config = config
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Attach to *app*. A project or plan with faults is told now; nothing is opened before the first event,
        so `--preload`, fork and the reloader are safe."""
        for key, value in self._config.items():
            app.config[f"QUESTLOG_{key.upper()}"] = value
        app.config.setdefault("QUESTLOG_PROJECT", app.root_path)
        app.config.setdefault("QUESTLOG_ACK", "durable")
        state = State(app)
        state.check()
        app.extensions["questlog"] = state
        app.after_request(_record_marked)
        app.register_error_handler(LogUnavailable, _unavailable)
        app.register_error_handler(EventRejected, _unprocessable)


def track(
    event: str,
    *,
    player_id: str | None = None,
    session_id: str | None = None,
    event_id: str | None = None,
    **fields: Any,
) -> str:
    """Record *event* and return its id; when this returns, it is durable (with `ack="durable"`).

    *event_id* is for events that may be sent again: the same id counts once. Raises `LogUnavailable` when
    the log refuses (unhandled: 503 with Retry-After), `EventRejected` when the plan does (unhandled: 422).
    """
    own = {"player_id": player_id, "session_id": session_id, "event_id": event_id}
    body = fields | {name: value for name, value in own.items() if value is not None}
    (receipt,) = _record(_state(), [body | {"event_type": event}])  # last: no field replaces what the server says
    if receipt.outcome == "rejected":
        raise EventRejected(receipt.reason, receipt.field, receipt.detail)
    return receipt.event_id


def event(name: str) -> Callable[[View], View]:
    """Mark a view: record *name* when the view succeeded (status below 400), with the fields the request has."""

    def mark(view: View) -> View:
        if inspect.iscoroutinefunction(view):

            @wraps(view)
            async def marked(*args: Any, **kwargs: Any) -> Any:
                _mark(name)
                return await view(*args, **kwargs)

        else:

            @wraps(view)
            def marked(*args: Any, **kwargs: Any) -> Any:
                _mark(name)
                return view(*args, **kwargs)

        return marked  # type: ignore[return-value]

    return mark


def _mark(name: str) -> None:
    if has_request_context():
        g.setdefault(_MARKED, []).append(name)


def capture_events(app: Flask) -> Capture:
    """Collect what *app* would record into a list; nothing is written meanwhile.

    `with capture_events(app) as events:`; `events.bad` lists those that do not fit the plan.
    """
    state: State = app.extensions["questlog"]
    return state.capture()


def _record_marked(response: Response) -> Response:
    """Record what the view's marks and the plan's route map say, before the answer leaves."""
    state = _state()
    names: list[str] = g.pop(_MARKED, [])
    if response.status_code >= 400:
        return response
    plan = state.plan
    if plan.routes and request.url_rule is not None:
        mapped = plan.routes.get(f"{request.method} {request.url_rule.rule}")
        if mapped is not None:
            names.append(mapped)
    if names:
        try:
            receipts = _record(state, [_described(plan, name) for name in names])
        except LogUnavailable as error:
            return _unavailable(error)
        for name, receipt in zip(names, receipts, strict=True):
            if receipt.outcome == "rejected":  # the view has done its work: its answer stands
                logger.warning("event=%s rejected=%s field=%s %s", name, receipt.reason, receipt.field, receipt.detail)
    return response


def _described(plan: Plan, name: str) -> dict[str, Any]:
    """Return the event *name* with the fields that the request has for it."""
    declared = plan.events.get(name)
    body = fields_of(_request(), declared) if declared is not None else {}
    return body | {"event_type": name}


def _request() -> Any:
    assert isinstance(request, LocalProxy)
    return request._get_current_object()


def _record(state: State, events: Sequence[dict[str, Any]]) -> Sequence[Receipt]:
    """Make *events* durable, or hand them to the background sender; return a receipt for each."""
    plan = state.plan
    accepted = accept(
        [_encode(plan, body) for body in events],
        plan,
        received_ms=time.time_ns() // 1_000_000,
        headers=_headers(plan) if has_request_context() else None,
    )
    kept = [body for body, receipt in zip(events, accepted.receipts, strict=True) if receipt.outcome == "accepted"]
    try:
        state.record(kept, accepted.records)
    except LogUnavailable as error:
        for body in events:
            event_refused.send(state.app, event=body, error=error)
        raise
    for body, receipt in zip(events, accepted.receipts, strict=True):
        signal = event_accepted if receipt.outcome == "accepted" else event_rejected
        signal.send(state.app, event=body, receipt=receipt)
    return accepted.receipts


def _headers(plan: Plan) -> dict[str, str]:
    """Return the kept headers of this request; no other is looked at."""
    sent = request.headers
    return {name: sent[name] for name in plan.headers if name in sent and name.lower() not in NEVER_KEPT}


def _encode(plan: Plan, body: dict[str, Any]) -> bytes:
    """Return an event as the plan's envelope wants it."""
    names = plan.envelope
    if names.fields or names != type(names)():
        body = _enveloped(plan, body)
    try:
        return _encoder.encode(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise QuestlogError(
            f"event {body.get('event_type')!r} has a field that JSON cannot hold: {error}",
            hint="track() takes text, numbers, truth values, dates, lists and dicts",
        ) from error


def _enveloped(plan: Plan, body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* with its envelope where the plan says it stands."""
    names = plan.envelope
    own = ("event_type", "event_id", "player_id", "session_id")
    found: dict[str, Any] = {}
    for name, value in body.items():
        path = getattr(names, name) if name in own else f"{names.fields}.{name}".removeprefix(".")
        *parents, last = path.split(".") if name in own else [*filter(None, names.fields.split(".")), name]
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return found


def _unavailable(error: LogUnavailable) -> Response:
    response = Response(f"{error}\n", 503, mimetype="text/plain")
    response.headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
    return response


def _unprocessable(error: EventRejected) -> Response:
    return Response(f"{error}\n", 422, mimetype="text/plain")


def _state() -> State:
    if not current_app:
        raise QuestlogError(
            "events are recorded inside a request or an app context", hint="with app.app_context(): track(...)"
        )
    state = current_app.extensions.get("questlog")
    if state is None:
        raise QuestlogError("this app has no questlog", hint="call Questlog(app) once")
    assert isinstance(state, State)
    return state
