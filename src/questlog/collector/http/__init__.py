"""HTTP in the collector: requests, responses, and the contract of a handler."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from questlog.collector.keys import Key

JSON = b"application/json"
_STATUS_LINES = {each.value: b"HTTP/1.1 %d %s" % (each.value, each.phrase.encode()) for each in HTTPStatus}


class Request:
    """One request. Header names are in lower case; the values of a repeated header are joined with commas.

    `length` is the Content-Length, None for a chunked body. `body` is empty until it is complete. `key` is the write
    key that authorized the request.
    """

    __slots__ = ("body", "headers", "key", "length", "method", "path", "peer", "query")

    def __init__(self, method: str, target: bytes, headers: dict[bytes, bytes], length: int | None, peer: str) -> None:
        self.method, self.headers, self.length, self.peer = method, headers, length, peer
        path, _, query = target.partition(b"?")
        self.path, self.query = path.decode("latin-1"), query
        self.body = b""
        self.key: Key | None = None

    def header(self, name: bytes) -> str:
        """Return a header as text, "" if it was not sent."""
        value = self.headers.get(name)
        return "" if value is None else value.decode("latin-1").strip()


class Response(msgspec.Struct, frozen=True, gc=False):
    """A response. `headers` are lines without line ends, such as `b"allow: GET"`."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[bytes, ...] = ()

    def encode(self, *, date: bytes, close: bool, without_body: bool = False) -> bytes:
        """Return the bytes to send."""
        lines = [_STATUS_LINES[self.status], b"date: " + date]
        if self.status != 204:
            lines.append(b"content-type: " + self.content_type)
            lines.append(b"content-length: %d" % len(self.body))
        lines += self.headers
        if close:
            lines.append(b"connection: close")
        return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if without_body else self.body)


class ErrorBody(msgspec.Struct, frozen=True):
    """Why a whole request is refused: a stable code (see `openapi.ERRORS`), a sentence, and what to do next."""

    error: str
    message: str
    hint: str = ""


def refuse(status: int, error: str, message: str, hint: str = "", *headers: bytes) -> Response:
    """Return the response to a request of which nothing is recorded."""
    return Response(status, msgspec.json.encode(ErrorBody(error, message, hint)), headers=headers)


Respond = Callable[[Response], None]
Page = Callable[[Request, Respond], None]
"""Answers a request that carries no events."""


class Handler(Protocol):
    """Answers requests in the server's event loop, which it must not block."""

    def early_response(self, request: Request) -> Response | None:
        """Return the response if the headers alone decide it; otherwise the body is read."""

    def handle(self, request: Request, respond: Respond) -> None:
        """Call *respond* once, now or later, from the event loop's thread."""
