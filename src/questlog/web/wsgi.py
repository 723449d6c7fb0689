"""The middleware for any WSGI app: the plan's `[routes]` records its requests, durably, before the answer leaves."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from questlog.errors import LogUnavailable
from questlog.web.watch import Watch, Watched, retry_after, tell_rejected

Environ = dict[str, Any]
Start = Callable[..., Any]


class WSGIMiddleware:
    """`application = WSGIMiddleware(application, project="/srv/game")`.

    *ack* is "durable" or "background", *redirects* counts 3xx as success too, and every setting may be given.
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
        self.questlog = Watch(self, project=project, ack=ack, redirects=redirects, settings=settings)

    def __call__(self, environ: Environ, start: Start) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        found = self.questlog.find(environ["REQUEST_METHOD"], path)
        if found is None:
            return self.app(environ, start)
        watched = Watched(*found, environ)
        answer = _Answer(self.questlog, watched, _read_body(watched, environ), start)
        parts = self.app(environ, answer.start)
        if answer.head is not None:
            return answer.leave(parts)
        try:  # an app that is a generator says its status with the first part
            rest = iter(parts)
            first = next(rest, b"")
        except BaseException:
            _close(parts)
            raise
        return answer.leave(_Parts(first, rest, parts)) if answer.head is not None else parts


def _read_body(watched: Watched, environ: Environ) -> bytes:
    """Return the body if fields may stand in it, and give the app one to read again."""
    length = watched.body_length
    if not length:
        return b""
    body: bytes = environ["wsgi.input"].read(length)
    environ["wsgi.input"] = io.BytesIO(body)
    return body


class _Answer:
    """The app's answer, held back until its event is recorded."""

    def __init__(self, watch: Watch, watched: Watched, body: bytes, start: Start) -> None:
        self._watch, self._watched, self._body, self._start = watch, watched, body, start
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self._write: Callable[[bytes], Any] | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], Any]:
        """Take the app's status and headers; they leave later, unless parts of the body have left already."""
        if self._write is not None:
            self._write = self._start(status, headers, exc_info)
            return self._write
        self.head = (status, headers)  # nothing has left: an error page simply replaces what was to leave
        return self._write_now

    def leave(self, parts: Iterable[bytes]) -> Iterable[bytes]:
        """Record the event, then start the answer; where the log refuses, 503 leaves instead."""
        if self._write is not None:
            return parts
        try:
            self._record()
        except LogUnavailable as error:
            _close(parts)
            text = f"{error}\n".encode()
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))]
            self._start("503 Service Unavailable", [*headers, ("Retry-After", retry_after(error))])
            return [text]
        except BaseException:
            _close(parts)
            raise
        assert self.head is not None
        self._write = self._start(*self.head)
        return parts

    def _write_now(self, part: bytes) -> None:
        """Be the `write` that old apps call."""
        if self._write is None:
            self._record()
            assert self.head is not None
            self._write = self._start(*self.head)
        self._write(part)

    def _record(self) -> None:
        assert self.head is not None
        if self._watch.is_success(int(self.head[0][:3])):
            pending = self._watched.pending(self._body)
            self._watch.state.record(pending)
            tell_rejected(pending)


class _Parts:
    """An answer's parts of which the first was taken already."""

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
