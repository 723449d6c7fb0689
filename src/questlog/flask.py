"""The public import path of the Flask extension: `from questlog.flask import Questlog`."""

from questlog.errors import EventRejected, LogUnavailable
from questlog.web.flask import (
    Questlog,
    batch,
    capture_events,
    event,
    event_accepted,
    event_refused,
    event_rejected,
    track,
)

__all__ = [
    "EventRejected",
    "LogUnavailable",
    "Questlog",
    "batch",
    "capture_events",
    "event",
    "event_accepted",
    "event_refused",
    "event_rejected",
    "track",
]
