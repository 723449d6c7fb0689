"""The Flask extension: `Questlog(app)` records events from views, durably, before the answer leaves."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from blinker import Namespace
from flask import Flask, Request, Response, current_app, has_request_context, request
from werkzeug.exceptions import HTTPException

from questlog.errors import EventRejected, LogUnavailable, QuestlogError
from questlog.plan import Event, Plan
from questlog.record import can_be_id
from questlog.web.fields import LARGEST_BODY, Members, Texts, fields_of, members_of, plain
from questlog.web.state import Capture, State
from questlog.web.wiring import Pending, Wiring

logger = logging.getLogger("questlog.flask")
_signals = Namespace()
event_accepted = _signals.signal("event-accepted", "Sent with `event` and `receipt` once an event is recorded.")
event_rejected = _signals.signal("event-rejected", "Sent with `event` and `receipt` when the plan refuses an event.")
event_refused = _signals.signal("event-refused", "Sent with `event` and `error` when the log refuses an event.")
View = TypeVar("View", bound=Callable[..., Any])
_batch: ContextVar[tuple[State, list[Pending]] | None] = ContextVar("questlog_batch", default=None)
_request: Callable[[], Request] = request._get_current_object  # type: ignore[attr-defined]
"""Returns the request itself: each attribute of the proxy would find it anew."""
_MARKED, _REACHED = "questlog.marked", "questlog.reached"


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
        state = State(app, app.config, lambda plan: _warn_of_routes_without_a_rule(app, plan))
        state.check()
        app.extensions["questlog"] = state
        _watch(app, state)
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
    if event_id is not None and not can_be_id(event_id):
        raise QuestlogError(f"an event's id has 1 to 200 characters, not {event_id!r}", hint="event_id=str(order.id)")
    body = dict(fields)
    own = {"player_id": player_id, "session_id": session_id, "event_id": event_id}
    body |= {name: value for name, value in own.items() if value is not None}
    body["event_type"] = event  # last: no field replaces what the server says
    state = _state()
    pending = Pending(state.wiring, [body], _request().environ if has_request_context() else {})
    ((_, receipt, _),) = pending.judge()
    together = _batch.get()
    if together is None or together[0] is not state or receipt.outcome == "rejected":
        _record(state, pending)
    else:
        together[1].append(pending)
    if receipt.outcome == "rejected":
        raise EventRejected(receipt.reason, receipt.field, receipt.detail)
    return receipt.event_id


@contextmanager
def batch() -> Iterator[None]:
    """Record what `track` is told inside in one step at the end: all of it, or nothing when anything raises."""
    state, outer = _state(), _batch.get()
    if outer is not None and outer[0] is state:
        yield
        return
    parts: list[Pending] = []
    token = _batch.set((state, parts))
    try:
        yield
    finally:
        _batch.reset(token)
    if parts:
        _record(state, Pending.of(parts))


def event(name: str) -> Callable[[View], View]:
    """Mark a view: record *name* when the view succeeded (status below 400), with the fields the request has."""

    def mark(view: View) -> View:
        if inspect.iscoroutinefunction(view):

            @wraps(view)
            async def marked(*args: Any, **kwargs: Any) -> Any:
                answer = await view(*args, **kwargs)
                _mark(name)
                return answer

        else:

            @wraps(view)
            def marked(*args: Any, **kwargs: Any) -> Any:
                answer = view(*args, **kwargs)
                _mark(name)
                return answer

        return marked  # type: ignore[return-value]

    return mark


def _mark(name: str) -> None:
    if has_request_context():
        request.environ.setdefault(_MARKED, []).append(name)


def capture_events(app: Flask) -> Capture:
    """Collect what *app* would record into a list; nothing is written meanwhile.

    `with capture_events(app) as events:`; `events.bad` lists those that do not fit the plan.
    """
    state: State = app.extensions["questlog"]
    return state.capture()


def _watch(app: Flask, state: State) -> None:
    """Record what the view's marks and the plan's route map say, before the answer leaves."""
    dispatch = app.dispatch_request

    def dispatch_request(*args: Any, **kwargs: Any) -> Any:
        answer = dispatch(*args, **kwargs)
        _request().environ[_REACHED] = True  # a login check that answers instead comes before this
        return answer

    def record_marked(response: Response) -> Response:
        asked = _request()
        names: list[str] = asked.environ.pop(_MARKED, None) or []
        if response.status_code >= 400:
            return response
        wiring = state.wiring
        if wiring.routes and _REACHED in asked.environ and asked.url_rule is not None:
            mapped = wiring.routes.get(f"{asked.method} {asked.url_rule.rule}")
            if mapped is not None and mapped not in names:
                names.append(mapped)
        return _record_names(state, wiring, names, asked, response) if names else response

    app.dispatch_request = dispatch_request  # type: ignore[method-assign]
    app.after_request(record_marked)


def _record_names(state: State, wiring: Wiring, names: list[str], asked: Request, response: Response) -> Response:
    """Record *names* in one step; return *response*, or what says that the log refused."""
    bodies = []
    for name in names:
        declared = wiring.events.get(name)
        body = _fields(asked, declared) if declared is not None else {}
        body["event_type"] = name
        bodies.append(body)
    pending = Pending(wiring, bodies, asked.environ)
    if asked.environ.get("CONTENT_TYPE"):
        pending.judge()  # its fields hold on to the body they were read from
    try:
        _record(state, pending)
    except LogUnavailable as error:
        response.close()
        return _unavailable(error)
    if wiring.strict:  # the view has done its work: its answer stands
        for _, receipt, _ in pending.judge():
            if receipt.outcome == "rejected":
                logger.warning("%s rejected=%s field=%s %s", names, receipt.reason, receipt.field, receipt.detail)
    return response


def _fields(asked: Request, event: Event) -> dict[str, Any]:
    """Return what the URL rule, body, form and query string of *asked* say of *event*."""
    path: Mapping[str, Any] = asked.view_args or {}
    environ = asked.environ
    if not path and not environ.get("QUERY_STRING") and not environ.get("CONTENT_TYPE"):
        return {}
    return fields_of(event, path, lambda: _members(asked), lambda: _texts(asked))


def _members(asked: Request) -> Members:
    if not asked.is_json or not _is_small(asked):
        return {}
    try:
        return members_of(asked.get_data())
    except (HTTPException, OSError):
        return {}


def _texts(asked: Request) -> Texts:
    """Return what query string and form say; the form counts."""
    texts = dict(asked.args.items()) if asked.query_string else {}
    if asked.mimetype == "application/x-www-form-urlencoded" and _is_small(asked):
        try:
            texts |= dict(asked.form.items())
        except (HTTPException, OSError):
            return texts
    return texts


def _is_small(asked: Request) -> bool:
    """Return whether the body may be read: one of unknown length may never end."""
    return asked.content_length is not None and asked.content_length <= LARGEST_BODY


def _record(state: State, pending: Pending) -> None:
    """Make what is accepted durable in one step, or hand it to the background sender; then tell the signals."""
    told = event_accepted.receivers or event_rejected.receivers
    if (told or pending.wiring.strict) and not any(each.receipt.outcome == "accepted" for each in pending.judge()):
        _tell(state, pending)
        return
    try:
        state.record(pending)
    except LogUnavailable as error:
        for body in pending.bodies:
            event_refused.send(state.app, event=plain(body), error=error)
        raise
    if told:
        _tell(state, pending)


def _tell(state: State, pending: Pending) -> None:
    for body, receipt, _ in pending.judge():
        signal = event_accepted if receipt.outcome == "accepted" else event_rejected
        signal.send(state.app, event=plain(body), receipt=receipt)


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


def _warn_of_routes_without_a_rule(app: Flask, plan: Plan) -> None:
    """Say which routes of the plan the app does not have: they would record nothing, in silence."""
    rules = {f"{method} {rule.rule}" for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    for route in plan.routes:
        if route not in rules:
            logger.warning("the plan's route %r is none of the app's%s", route, _nearest(route, rules))


def _nearest(route: str, rules: Iterable[str]) -> str:
    near = difflib.get_close_matches(route, list(rules), 1, 0.7)
    return f"; did you mean {near[0]!r}?" if near else ""
