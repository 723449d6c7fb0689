"""For tests of games that use questlog: `capture_events` and a pytest fixture of the same name."""

from __future__ import annotations

from typing import Any

try:
    import pytest
except ImportError:  # pragma: no cover - the helpers work without pytest
    pytest = None  # type: ignore[assignment]


def capture_events(app: Any) -> Any:
    """Collect in a list the events that a Flask app or a middleware would record; nothing is written meanwhile.

    `with capture_events(app) as events:`; `events.bad` lists those that do not fit the plan.
    """
    matcher = getattr(app, "questlog", None)
    if matcher is not None:
        return matcher.capture()
    from questlog.web.flask import capture_events as capture_of_flask

    return capture_of_flask(app)


if pytest is not None:

    @pytest.fixture
    def questlog_events() -> Any:
        """A function: `with questlog_events(app) as events:` collects the events that the app would record."""
        return capture_events
