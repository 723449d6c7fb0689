"""What the WSGI and the ASGI middleware share: which requests are recorded, and the events they make."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from questlog.errors import LogUnavailable
from questlog.plan import Plan
from questlog.web.fields import LARGEST_BODY, Members, fields_of, members_of
from questlog.web.routes import Matched, Routes
from questlog.web.state import Capture, State
from questlog.web.wiring import Pending, Wiring

logger = logging.getLogger("questlog.middleware")
_FORM = "application/x-www-form-urlencoded"
_MOST_TEXTS = 1000


class Watch:
    """The plan's route map, laid over an app that questlog knows nothing of.

    *redirects* tells whether a redirect is a success too; otherwise only 2xx is.
    """

    def __init__(
        self, app: Any, *, project: str | Path, ack: str, redirects: bool, settings: Mapping[str, Any]
    ) -> None:
        self._below = 400 if redirects else 300
        config = {f"QUESTLOG_{name.upper()}": value for name, value in settings.items()}
        self.state = State(app, config | {"QUESTLOG_PROJECT": project, "QUESTLOG_ACK": ack}, self._learn)
        self.state.check()

    def _learn(self, plan: Plan) -> None:
        self._routes = Routes(plan.routes)

    def find(self, method: str, path: str) -> tuple[Wiring, Matched] | None:
        """Return what such a request records if it succeeds."""
        wiring = self.state.wiring
        matched = self._routes.find(method, path)
        return None if matched is None else (wiring, matched)

    def is_success(self, status: int) -> bool:
        """Return whether an answer of this *status* says that the request did what it asked for."""
        return 200 <= status < self._below

    def capture(self) -> Capture:
        """Return a list that takes what would be recorded while it is used as a context."""
        return self.state.capture()


class Watched:
    """One request that will be recorded if it succeeds. *environ* names things as WSGI does."""

    def __init__(self, wiring: Wiring, matched: Matched, environ: Mapping[str, Any]) -> None:
        self._wiring, self._matched, self._environ = wiring, matched, environ
        self._kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()

    @property
    def body_length(self) -> int:
        """How many bytes of the body have to be read for the event's fields: 0, or all of them.

        A body of unknown length may never end, and a large one holds no event.
        """
        if not (self._is_json or self._kind == _FORM):
            return 0
        text = self._environ.get("CONTENT_LENGTH") or ""
        length = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
        return length if length <= LARGEST_BODY else 0

    @property
    def _is_json(self) -> bool:
        return self._kind == "application/json" or (self._kind.startswith("application/") and "+json" in self._kind)

    def pending(self, body: bytes) -> Pending:
        """Return the event, described by the path, *body*, form and query string, on its way to the log."""
        declared = self._wiring.events.get(self._matched.event)
        event: dict[str, Any] = {}
        if declared is not None:
            event = fields_of(declared, self._matched.values, lambda: self._members(body), lambda: self._texts(body))
        event["event_type"] = self._matched.event  # last: no client can say otherwise
        pending = Pending(self._wiring, [event], self._environ)
        pending.judge()
        return pending

    def _members(self, body: bytes) -> Members:
        return members_of(body) if self._is_json else {}

    def _texts(self, body: bytes) -> dict[str, str]:
        """Return what query string and form say; the form counts, and of equal names the first."""
        texts = _pairs(self._environ.get("QUERY_STRING", "").encode("latin-1", "replace"))
        return texts | _pairs(body) if self._kind == _FORM else texts


def tell_rejected(pending: Pending) -> None:
    """Log what the plan refuses: the app has done its work, so its answer stands."""
    for body, receipt, _ in pending.judge():
        if receipt.outcome == "rejected":
            logger.warning(
                "%s rejected=%s field=%s %s", body["event_type"], receipt.reason, receipt.field, receipt.detail
            )


def retry_after(error: LogUnavailable) -> str:
    """Return what the Retry-After header of a 503 says."""
    return str(max(1, round(error.retry_after or 1)))


def _pairs(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_TEXTS)
    except ValueError:
        return {}
    return dict(reversed(pairs))
