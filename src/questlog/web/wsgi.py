"""Middleware for any WSGI app: records the requests in the plan's `[routes]` before their response is sent."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from questlog.errors import LogUnavailable
from questlog.web.matcher import MatchedRequest, RequestMatcher, log_rejected

Environ = dict[str, Any]
Start = Callable[..., Any]


class WSGIMiddleware:
    """`application = WSGIMiddleware(application, project="/srv/game")`.

    *ack* is "durable" or "background". With *redirects*, a 3xx response counts as success too. Any setting can be
    passed as a keyword argument.
    """

    def __init__(
        self,
        app: Callable[[Environ, Start], Iterable[bytes]],
        *,
        project: str | Path = ".",
        ack: str = "durable",
        redirects: bool = False,
        **settings: Any,
    ) -> None:
        self.app = app
        self.questlog = RequestMatcher(self, project=project, ack=ack, redirects=redirects, settings=settings)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        match = self.questlog.match(environ["REQUEST_METHOD"], path)
        if match is None:
            return self.app(environ, start)
        request = MatchedRequest(*match, environ)
        response = _HeldResponse(self.questlog, request, _read_body(request, environ), start)
        parts = self.app(environ, response.start)
        if response.head is not None:
            return response.send(parts)
        try:  # an app that is a generator sets its status when its first part is read
            rest = iter(parts)
            first = next(rest, b"")
        except BaseException:
            _close(parts)
            raise
        return response.send(_Parts(first, rest, parts)) if response.head is not None else parts


def _read_body(request: MatchedRequest, environ: Environ) -> bytes:
    """Return the body if it may hold fields, and leave the app a copy to read."""
    length = request.body_length
    if not length:
        return b""
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


class _HeldResponse:
    """The app's response, held back until its event is recorded."""

    def __init__(self, matcher: RequestMatcher, request: MatchedRequest, body: bytes, start: Start) -> None:
        self._matcher, self._request, self._body, self._start = matcher, request, body, start
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Callable[[bytes], Any] | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
        """Keep the app's status and headers for later, unless parts of the body have been sent already."""
        if self._write is not None:
            self._write = self._start(status, headers, exc_info)
            return self._write
        self.head = (status, headers)  # nothing has been sent, so an error page simply replaces it
        return self._write_now

    def send(self, parts: Iterable[bytes]) -> Iterable[bytes]:
        """Record the event, then start the response. If the log refuses, send 503 instead."""
        if self._write is not None:
            return parts
        try:
            self._record()
        except LogUnavailable as error:
            _close(parts)
            text = f"{error}\n".encode()
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
            headers.append(("Retry-After", str(error.retry_after_seconds)))
            self._start("503 Service Unavailable", headers)
            return [text]
        except BaseException:
            _close(parts)
            raise
        assert self.head is not None
        self._write = self._start(*self.head)
        return parts

    def _write_now(self, part: bytes) -> None:
        """The `write` callable that older apps use."""
        if self._write is None:
            self._record()
            assert self.head is not None
            self._write = self._start(*self.head)
        self._write(part)

    def _record(self) -> None:
        assert self.head is not None
        if self._matcher.is_success(int(self.head[0][:3])):
            batch = self._request.batch(self._body)
            self._matcher.recorder.record(batch)
            log_rejected(batch)


class _Parts:
    """A response body whose first part has been read already."""

    def __init__(self, first: bytes, rest: Iterator[bytes], whole: Iterable[bytes]) -> None:
        self._first, self._rest, self._whole = first, rest, whole

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        yield from self._rest

    def close(self) -> None:
        _close(self._whole)


def _close(parts: Iterable[bytes]) -> None:
    close = getattr(parts, "close", None)
    if close is not None:
        close()
