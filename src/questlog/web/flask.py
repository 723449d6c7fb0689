"""The Flask extension: `Questlog(app)` records events from views, durably, before the response is sent."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from blinker import Namespace
from flask import Flask, Request, Response, current_app, has_request_context, request
from werkzeug.exceptions import HTTPException

from questlog.errors import EventRejected, LogUnavailable, QuestlogError
from questlog.messages import library_logger
from questlog.plan import Event, Plan
from questlog.record import MAX_ID_LENGTH, Members, can_be_id, json_members
from questlog.web.batch import EventBatch, PreparedPlan
from questlog.web.fields import LARGEST_BODY, Texts, fields_of, plain
from questlog.web.recorder import Capture, Recorder

logger = library_logger("questlog.flask")
_signals = Namespace()
event_accepted = _signals.signal("event-accepted", "Sent with `event` and `receipt` once an event is recorded.")
event_rejected = _signals.signal("event-rejected", "Sent with `event` and `receipt` when the plan rejects an event.")
event_refused = _signals.signal("event-refused", "Sent with `event` and `error` when the log refuses an event.")
View = TypeVar("View", bound=Callable[..., Any])
_batch: ContextVar[tuple[Recorder, list[EventBatch]] | None] = ContextVar("questlog_batch", default=None)
_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
"""Returns the request itself, because the proxy looks it up again for each attribute."""
_MARKED, _REACHED = "questlog.marked", "questlog.reached"


class Questlog:
    """Flask extension. `Questlog(app)` or `Questlog().init_app(app)`; one object can serve many apps.

    Keyword arguments become config keys: `Questlog(app, ack="background")` sets `QUESTLOG_ACK`.
    """

    def __init__(self, app: Flask | None = None, **config: Any) -> None:
        self._config = config
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Attach to *app*. Raise if its project or plan is invalid.

        Nothing is opened before the first event, so `--preload`, forks and the reloader are safe.
        """
        for key, value in self._config.items():
            app.config[f"QUESTLOG_{key.upper()}"] = value
        app.config.setdefault("QUESTLOG_PROJECT", app.root_path)
        app.config.setdefault("QUESTLOG_ACK", "durable")
        recorder = Recorder(app, app.config, lambda plan: _warn_of_unknown_routes(app, plan))
        recorder.check()
        app.extensions["questlog"] = recorder
        _record_requests(app, recorder)
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
    """Record *event* and return its id. It is durable when this returns (with `ack="durable"`).

    Pass *event_id* for an event that may be sent more than once: the same id counts once. Raises `LogUnavailable`
    if the log refuses it (503 with Retry-After if unhandled), `EventRejected` if the plan does (422 if unhandled).
    """
    if event_id is not None and not can_be_id(event_id):
        raise QuestlogError(
            f"an event id has 1 to {MAX_ID_LENGTH} characters, not {event_id!r}", hint="event_id=str(order.id)"
        )
    body = dict(fields)
    envelope = {"player_id": player_id, "session_id": session_id, "event_id": event_id}
    body |= {name: value for name, value in envelope.items() if value is not None}
    body["event_type"] = event  # set last: no field can replace it
    recorder = _recorder()
    single = EventBatch(recorder.plan, [body], _request().environ if has_request_context() else {})
    ((_, receipt, _),) = single.accept()
    collecting = _batch.get()
    if collecting is None or collecting[0] is not recorder or receipt.outcome == "rejected":
        _record(recorder, single)
    else:
        collecting[1].append(single)
    if receipt.outcome == "rejected":
        raise EventRejected(receipt.reason, receipt.field, receipt.detail)
    return receipt.event_id


@contextmanager
def batch() -> Iterator[None]:
    """Record the events tracked inside in one step at the end. If anything raises, none of them is recorded."""
    recorder, outer = _recorder(), _batch.get()
    if outer is not None and outer[0] is recorder:
        yield
        return
    batches: list[EventBatch] = []
    token = _batch.set((recorder, batches))
    try:
        yield
    finally:
        _batch.reset(token)
    if batches:
        _record(recorder, EventBatch.merge(batches))


def event(name: str) -> Callable[[View], View]:
    """Mark a view: record *name*, with fields from the request, if the view succeeds (status below 400)."""

    def mark(view: View) -> View:
        if inspect.iscoroutinefunction(view):

            @wraps(view)
            async def marked(*args: Any, **kwargs: Any) -> Any:
                response = await view(*args, **kwargs)
                _mark(name)
                return response

        else:

            @wraps(view)
            def marked(*args: Any, **kwargs: Any) -> Any:
                response = view(*args, **kwargs)
                _mark(name)
                return response

        return marked  # type: ignore[return-value]

    return mark


def _mark(name: str) -> None:
    if has_request_context():
        request.environ.setdefault(_MARKED, []).append(name)


def capture_events(app: Flask) -> Capture:
    """Collect what *app* would record in a list. Nothing is written meanwhile.

    `with capture_events(app) as events:`; `events.bad` lists the events that do not fit the plan.
    """
    recorder: Recorder = app.extensions["questlog"]
    return recorder.capture()


def _record_requests(app: Flask, recorder: Recorder) -> None:
    """Record the events of marked views and of the plan's `[routes]` before the response is sent."""
    dispatch = app.dispatch_request

    def dispatch_request(*args: Any, **kwargs: Any) -> Any:
        response = dispatch(*args, **kwargs)
        _request().environ[_REACHED] = True  # not set if, say, a login check responds before the view
        return response

    def record_marked(response: Response) -> Response:
        current = _request()
        names: list[str] = current.environ.pop(_MARKED, None) or []
        if response.status_code >= 400:
            return response
        plan = recorder.plan
        if plan.routes and _REACHED in current.environ and current.url_rule is not None:
            routed = plan.routes.get(f"{current.method} {current.url_rule.rule}")
            if routed is not None and routed not in names:
                names.append(routed)
        return _record_names(recorder, plan, names, current, response) if names else response

    app.dispatch_request = dispatch_request  # type: ignore[method-assign]
    app.after_request(record_marked)


def _record_names(
    recorder: Recorder, plan: PreparedPlan, names: list[str], current: Request, response: Response
) -> Response:
    """Record the events *names* in one step. Return *response*, or a 503 if the log refuses them."""
    bodies = []
    for name in names:
        declared = plan.events.get(name)
        body = _fields(current, declared) if declared is not None else {}
        body["event_type"] = name
        bodies.append(body)
    events = EventBatch(plan, bodies, current.environ)
    if current.environ.get("CONTENT_TYPE"):
        events.accept()  # otherwise its fields would keep the whole request body in memory
    try:
        _record(recorder, events)
    except LogUnavailable as error:
        response.close()
        return _unavailable(error)
    if plan.can_reject:  # the view has done its work, so its response stands
        for _, receipt, _ in events.accept():
            if receipt.outcome == "rejected":
                logger.warning("%s rejected=%s field=%s %s", names, receipt.reason, receipt.field, receipt.detail)
    return response


def _fields(current: Request, event: Event) -> dict[str, Any]:
    """Return the fields of *event* that the URL rule, body, form and query string give."""
    path: Mapping[str, Any] = current.view_args or {}
    environ = current.environ
    if not path and not environ.get("QUERY_STRING") and not environ.get("CONTENT_TYPE"):
        return {}
    return fields_of(event, path, lambda: _members(current), lambda: _texts(current))


def _members(current: Request) -> Members:
    if not current.is_json or not _is_small(current):
        return {}
    try:
        return json_members(current.get_data()) or {}
    except (HTTPException, OSError):
        return {}


def _texts(current: Request) -> Texts:
    """Return the parameters of the form and the query string. The form wins."""
    texts = dict(current.args.items()) if current.query_string else {}
    if current.mimetype == "application/x-www-form-urlencoded" and _is_small(current):
        try:
            texts |= dict(current.form.items())
        except (HTTPException, OSError):
            return texts
    return texts


def _is_small(current: Request) -> bool:
    """Return whether the body may be read. A body of unknown length may never end."""
    return current.content_length is not None and current.content_length <= LARGEST_BODY


def _record(recorder: Recorder, events: EventBatch) -> None:
    """Make what is accepted durable in one step, or queue it in the background; then send the signals."""
    has_receivers = bool(event_accepted.receivers or event_rejected.receivers)
    if (has_receivers or events.plan.can_reject) and not any(
        item.receipt.outcome == "accepted" for item in events.accept()
    ):
        _send_signals(recorder, events)
        return
    try:
        recorder.record(events)
    except LogUnavailable as error:
        for body in events.bodies:
            event_refused.send(recorder.app, event=plain(body), error=error)
        raise
    if has_receivers:
        _send_signals(recorder, events)


def _send_signals(recorder: Recorder, events: EventBatch) -> None:
    for body, receipt, _ in events.accept():
        signal = event_accepted if receipt.outcome == "accepted" else event_rejected
        signal.send(recorder.app, event=plain(body), receipt=receipt)


def _unavailable(error: LogUnavailable) -> Response:
    response = Response(f"{error}\n", 503, mimetype="text/plain")
    response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _unprocessable(error: EventRejected) -> Response:
    return Response(f"{error}\n", 422, mimetype="text/plain")


def _recorder() -> Recorder:
    if not current_app:
        raise QuestlogError(
            "events can be recorded only inside a request or an app context", hint="with app.app_context(): track(...)"
        )
    recorder = current_app.extensions.get("questlog")
    if recorder is None:
        raise QuestlogError("this app has no Questlog extension", hint="call Questlog(app) once")
    assert isinstance(recorder, Recorder)
    return recorder


def _warn_of_unknown_routes(app: Flask, plan: Plan) -> None:
    """Warn of the plan's routes that the app does not have: they would silently record nothing."""
    rules = {f"{method} {rule.rule}" for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    for route in plan.routes:
        if route not in rules:
            logger.warning("the plan's route %r does not exist in the app%s", route, _nearest(route, rules))


def _nearest(route: str, rules: Iterable[str]) -> str:
    near = difflib.get_close_matches(route, list(rules), 1, 0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
