"""The messages that a long-running process writes to standard error, as text or as lines of JSON."""

from __future__ import annotations

import json
import logging

from questlog.printable import clean, escape


def library_logger(name: str) -> logging.Logger:
    """Return a logger for code that runs in the user's process, whose handlers escape nothing: it escapes arguments."""
    logger = logging.getLogger(name)
    if _escape_arguments not in logger.filters:
        logger.addFilter(_escape_arguments)
    return logger


def _escape_arguments(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_escaped, record.args))
    return True


def _escaped(argument: object) -> object:
    if isinstance(argument, str):
        return clean(argument)
    return escape(str(argument)) if isinstance(argument, BaseException) else argument


def start_logging(as_json: bool) -> None:
    """Write log messages to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if as_json else _TextLines("%(asctime)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _TextLines(logging.Formatter):
    """Text whose control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


class _JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return *record* as one line of JSON."""
        line = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return escape(json.dumps(line))
