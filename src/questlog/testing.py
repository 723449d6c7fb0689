"""For tests of games that use questlog: `capture_events` and a pytest fixture of the same name."""

from __future__ import annotations

from typing import Any

try:
    import pytest
except ImportError:  # pragma: no cover - the helpers work without pytest
    pytest = None  # type: ignore[assignment]


def _capture(app: Any) -> Any:
    from questlog.collect.flask import capture_events

    return capture_events(app)


if pytest is not None:

    @pytest.fixture
    def questlog_events() -> Any:
        """A function: `with questlog_events(app) as events:` collects what the app would record."""
        return _capture


def __getattr__(name: str) -> Any:
    if name == "capture_events":
        from questlog.collect.flask import capture_events

        return capture_events
    raise AttributeError(name)
