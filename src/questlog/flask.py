"""The Flask extension under its public name: `from questlog.flask import Questlog`."""

from questlog.collect.flask import Questlog, event, track

__all__ = ["Questlog", "event", "track"]
