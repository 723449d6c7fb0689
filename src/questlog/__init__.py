"""questlog: records what players do in a game and makes it queryable in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from questlog.client import Client as Client
    from questlog.pipeline import Pipeline

__version__ = "0.1.0"


def open(path: str = ".", **settings: Any) -> Pipeline:  # reads as questlog.open(...)
    """Open the project folder at or above *path*: `questlog.open(".").sql("select 1").df()`."""
    from questlog.pipeline import open_pipeline

    return open_pipeline(path, **settings)


def event(name: str) -> Any:
    """Mark a Flask view: record *name* when the view succeeds."""
    from questlog.web.flask import event as mark

    return mark(name)


def __getattr__(name: str) -> Any:
    if name == "track":
        from questlog.web.flask import track

        return track
    if name == "Client":
        from questlog.client import Client

        return Client
    raise AttributeError(f"module 'questlog' has no attribute {name!r}")
