"""Middleware for any ASGI app: records the requests in the plan's `[routes]` before their response is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from questlog.errors import LogUnavailable
from questlog.web.batch import EventBatch
from questlog.web.matcher import MatchedRequest, RequestMatcher, log_rejected
from questlog.web.recorder import Recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


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
        self._waits = ack == "durable"

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
        if self._waits and not recorder.captures:
            await _append(recorder, batch)
        else:
            recorder.record(batch)
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


async def _append(recorder: Recorder, batch: EventBatch) -> None:
    """Return once the events are durable; raise the reason if they are not."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Exception | None] = loop.create_future()

    def done(error: Exception | None) -> None:
        if not future.done():  # the client may have gone away
            future.set_result(error)

    recorder.submit(loop, batch, done)
    error = await future
    if error is not None:
        raise error


async def _read_body(request: MatchedRequest, receive: Receive) -> tuple[bytes, Receive]:
    """Return the body if it may hold fields, and a `receive` that gives the app every message again."""
    if not request.body_length:
        return b"", receive
    messages: list[Message] = []
    body, more = b"", True
    while more:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        more = bool(message.get("more_body")) and len(body) <= request.body_length
    replayed = iter(messages)

    async def replay() -> Message:
        message = next(replayed, None)
        return await receive() if message is None else message

    return body, replay


def _environ(scope: Scope) -> dict[str, Any]:
    """Return the query string and the headers of *scope* under WSGI's names. Repeated headers are joined."""
    environ: dict[str, Any] = {"QUERY_STRING": scope.get("query_string", b"").decode("latin-1")}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
