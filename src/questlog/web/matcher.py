"""Which requests the WSGI and ASGI middleware record, and the events those requests make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from questlog.messages import library_logger
from questlog.plan import Plan
from questlog.record import Members, json_members
from questlog.web.batch import EventBatch, PreparedPlan
from questlog.web.fields import LARGEST_BODY, fields_of
from questlog.web.recorder import Capture, Recorder
from questlog.web.routes import RouteMatch, Routes

logger = library_logger("questlog.middleware")
_FORM = "application/x-www-form-urlencoded"
_MAX_PARAMETERS = 1000


class RequestMatcher:
    """The plan's `[routes]`, applied to an app whose router questlog cannot ask.

    Only a 2xx response is a success; with *redirects* a 3xx response is one too.
    """

    def __init__(
        self, app: Any, *, project: str | Path, ack: str, redirects: bool, settings: Mapping[str, Any]
    ) -> None:
        self._success_below = 400 if redirects else 300
        config = {f"QUESTLOG_{name.upper()}": value for name, value in settings.items()}
        config |= {"QUESTLOG_PROJECT": project, "QUESTLOG_ACK": ack}
        self.recorder = Recorder(app, config, self._use)
        self.recorder.check()

    def _use(self, plan: Plan) -> None:
        self._routes = Routes(plan.routes)

    def match(self, method: str, path: str) -> tuple[PreparedPlan, RouteMatch] | None:
        """Return the plan and the route of a request that is recorded if it succeeds, or None."""
        plan = self.recorder.plan
        route = self._routes.match(method, path)
        return None if route is None else (plan, route)

    def is_success(self, status: int) -> bool:
        """Return whether a response with this *status* is a success."""
        return 200 <= status < self._success_below

    def capture(self) -> Capture:
        """Return a list that collects what would be recorded while it is used as a context manager."""
        return self.recorder.capture()


class MatchedRequest:
    """One request that is recorded if it succeeds. *environ* uses WSGI's names."""

    def __init__(self, plan: PreparedPlan, route: RouteMatch, environ: Mapping[str, Any]) -> None:
        self._plan, self._route, self._environ = plan, route, environ
        self._media_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()

    @property
    def body_length(self) -> int:
        """How many bytes of the body to read for the event's fields: 0, or all of them.

        A body of unknown length may never end, and a large body is not an event.
        """
        if not (self._is_json or self._media_type == _FORM):
            return 0
        text = self._environ.get("CONTENT_LENGTH") or ""
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        return length if length <= LARGEST_BODY else 0

    @property
    def _is_json(self) -> bool:
        media_type = self._media_type
        return media_type == "application/json" or (media_type.startswith("application/") and "+json" in media_type)

    def batch(self, body: bytes) -> EventBatch:
        """Return the request's event, with fields from the path, *body*, form and query string."""
        declared = self._plan.events.get(self._route.event)
        event: dict[str, Any] = {}
        if declared is not None:
            event = fields_of(declared, self._route.values, lambda: self._members(body), lambda: self._texts(body))
        event["event_type"] = self._route.event  # set last: no client can change it
        batch = EventBatch(self._plan, [event], self._environ)
        batch.accept()
        return batch

    def _members(self, body: bytes) -> Members:
        return json_members(body) or {} if self._is_json else {}

    def _texts(self, body: bytes) -> dict[str, str]:
        """Return the form's and the query string's parameters. The form wins, and the first of equal names."""
        texts = _parameters(self._environ.get("QUERY_STRING", "").encode("latin-1", "replace"))
        return texts | _parameters(body) if self._media_type == _FORM else texts


def log_rejected(batch: EventBatch) -> None:
    """Log the events that the plan rejects. The app has done its work, so its response stands."""
    for body, receipt, _ in batch.accept():
        if receipt.outcome == "rejected":
            logger.warning(
                "%s rejected=%s field=%s %s", body["event_type"], receipt.reason, receipt.field, receipt.detail
            )


def _parameters(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        return {}
    return dict(reversed(pairs))
