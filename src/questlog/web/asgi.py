"""Middleware for any ASGI app: records the requests in the plan's `[routes]` before their response is sent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from questlog.errors import LogUnavailable
from questlog.log.group import Waiter
from questlog.web.batch import EventBatch
from questlog.web.matcher import MatchedRequest, RequestMatcher, log_rejected
from questlog.web.recorder import Recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_MAX_GROUP_EVENTS = 5_000


class ASGIMiddleware:
    """`app = ASGIMiddleware(app, project="/srv/game")`, or `app.add_middleware(ASGIMiddleware, project=…)`.

    *ack* is "durable" or "background". With *redirects*, a 3xx response counts as success too. Any setting can be
    passed as a keyword argument. A request that waits for the disk does not block the event loop, which is asyncio's
    or one with the same interface.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        project: str | Path = ".",
        ack: str = "durable",
        redirects: bool = False,
        **settings: Any,
    ) -> None:
        self.app = app
        self.questlog = RequestMatcher(self, project=project, ack=ack, redirects=redirects, settings=settings)
        self._appender = _Appender(self.questlog.recorder) if ack == "durable" else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        root = scope.get("root_path", "")
        if root and path.startswith(root):  # some servers include the mount point in the path, others do not
            path = path[len(root) :] or "/"
        match = self.questlog.match(scope["method"], path)
        if match is None:
            return await self.app(scope, receive, send)
        request = MatchedRequest(*match, _environ(scope))
        body, receive = await _read_body(request, receive)
        await self.app(scope, receive, _HeldMessages(self, request, body, send).send)

    async def record(self, batch: EventBatch) -> None:
        """Make the event durable while other requests continue, or queue it in the background."""
        recorder = self.questlog.recorder
        if self._appender is None or recorder.captures:
            recorder.record(batch)
        else:
            await self._appender.append(batch)
        log_rejected(batch)


class _HeldMessages:
    """The app's response messages, held back until its event is recorded."""

    def __init__(self, middleware: ASGIMiddleware, request: MatchedRequest, body: bytes, send: Send) -> None:
        self._middleware, self._request, self._body, self._send = middleware, request, body, send
        self._is_refused = False

    async def send(self, message: Message) -> None:
        """Pass on the app's message. If the log refuses, send 503 instead."""
        if self._is_refused:
            return
        if message["type"] == "http.response.start" and self._middleware.questlog.is_success(message["status"]):
            try:
                await self._middleware.record(self._request.batch(self._body))
            except LogUnavailable as error:
                self._is_refused = True
                return await self._refuse(error)
        await self._send(message)

    async def _refuse(self, error: LogUnavailable) -> None:
        text = f"{error}\n".encode()
        headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(text))}
        headers["retry-after"] = str(error.retry_after_seconds)
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 503, "headers": pairs})
        await self._send({"type": "http.response.body", "body": text})


class _Appender:
    """Appends in a thread of its own what any event loop asks for: all that has come meanwhile shares an fsync."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: list[tuple[Waiter, asyncio.Future[Exception | None]]] = []
        self._running = False
        self._thread = ThreadPoolExecutor(1, "questlog-append")

    async def append(self, batch: EventBatch) -> None:
        """Return once the event is durable; raise why it is not."""
        if self._pid != os.getpid():
            self._reset()
        future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((Waiter(batch, len(batch.bodies)), future))
            if not self._running:
                self._running = True
                self._thread.submit(self._run)
        error = await future
        if error is not None:
            raise error

    def _run(self) -> None:
        while True:
            with self._lock:
                group, self._waiting = self._waiting[:_MAX_GROUP_EVENTS], self._waiting[_MAX_GROUP_EVENTS:]
                if not group:
                    self._running = False
                    return
            failure: Exception | None = None
            try:
                self._recorder.commit([waiter for waiter, _ in group])
            except Exception as error:
                failure = error
            _answer(group, failure)


def _answer(group: Sequence[tuple[Waiter, asyncio.Future[Exception | None]]], failure: Exception | None) -> None:
    """Tell those who wait, each loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Exception | None], Exception | None]]] = {}
    for waiter, future in group:
        error = waiter.error if isinstance(waiter.error, Exception) else failure
        loops.setdefault(future.get_loop(), []).append((future, _own(error)))
    for loop, answers in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits
            loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: Sequence[tuple[asyncio.Future[Exception | None], Exception | None]]) -> None:
    for future, error in answers:
        if not future.done():  # its client may have gone
            future.set_result(error)


def _own(error: Exception | None) -> Exception | None:
    """Return an error for one request alone: a shared one would collect everybody's traceback."""
    if not isinstance(error, LogUnavailable):
        return error
    return type(error)(str(error), hint=error.hint, retry_after=error.retry_after)


async def _read_body(request: MatchedRequest, receive: Receive) -> tuple[bytes, Receive]:
    """Return the body if fields may stand in it, and a `receive` that gives the app everything once more."""
    if not request.body_length:
        return b"", receive
    seen: list[Message] = []
    body, more = b"", True
    while more:
        message = await receive()
        seen.append(message)
        body += message.get("body", b"")
        more = bool(message.get("more_body")) and len(body) <= request.body_length
    again = iter(seen)

    async def receive_again() -> Message:
        message = next(again, None)
        return await receive() if message is None else message

    return body, receive_again


def _environ(scope: Scope) -> dict[str, Any]:
    """Return of *scope* what an event may need, named as in WSGI; repeated headers are joined."""
    environ: dict[str, Any] = {"QUERY_STRING": scope.get("query_string", b"").decode("latin-1")}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
