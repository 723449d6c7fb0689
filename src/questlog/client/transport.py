"""One POST to the collector, with the standard library's HTTP."""

from __future__ import annotations

import contextlib
import datetime as dt
import email.utils
import gzip
import http.client
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from questlog.errors import QuestlogError

LONGEST_WAIT = 3600.0
_LARGEST_ANSWER = 32 << 20
_WORTH_PACKING = 1024


class Answer(NamedTuple):
    """The collector's response."""

    status: int
    body: bytes
    retry_after: float | None
    location: str = ""


class Unreachable(Exception):
    """There was no response: the events may or may not have arrived."""


class Transport:
    """A connection that is kept alive. Not safe for concurrent threads."""

    def __init__(self, url: str, key: str, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise QuestlogError(f"{url!r} is not a valid collector URL", hint="e.g. https://events.example.com")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise QuestlogError("the key is empty or has invalid characters", hint="questlog key create")
        self.url = url
        self._key, self._timeout = key, timeout
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path.rstrip("/") + "/v1/events"
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes) -> Answer:
        """Send lines of JSON and return the response, or raise `Unreachable`."""
        headers = {"Content-Type": "application/x-ndjson", "Authorization": f"Bearer {self._key}"}
        if len(body) > _WORTH_PACKING:
            body = gzip.compress(body, 5)
            headers["Content-Encoding"] = "gzip"
        try:
            return self._exchange(body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _exchange(self, body: bytes, headers: dict[str, str]) -> Answer:
        if self._connection is None:
            self._connection = self._kind(self._host, self._port, timeout=self._timeout)
        self._connection.request("POST", self._path, body, headers)
        response = self._connection.getresponse()
        answer = response.read(_LARGEST_ANSWER + 1)
        if len(answer) > _LARGEST_ANSWER or response.will_close:
            self.close()
        retry_after = _seconds(response.headers["Retry-After"])
        return Answer(response.status, answer, retry_after, response.headers["Location"] or "")

    def abort(self) -> None:
        """End a request in which another thread is waiting."""
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Drop the connection without closing it: in a forked child it belongs to the parent."""
        self._connection = None

    def close(self) -> None:
        """Close the connection. The next post opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _seconds(text: str | None) -> float | None:
    """Return the seconds of a Retry-After header (a number or a date), at most an hour."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(LONGEST_WAIT, float(text[:9]))
    try:
        time = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)
    return min(LONGEST_WAIT, max(0.0, (time - dt.datetime.now(dt.UTC)).total_seconds()))
