"""One client's connection: requests in, responses out in the same order, and a deadline for every state."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from questlog.collector.http import Handler, Request, Response, refuse
from questlog.collector.http.limits import Limits
from questlog.collector.http.reader import Refusal, RequestReader, body_too_large
from questlog.collector.http.states import (
    BODY,
    CLOSED,
    CLOSING,
    ENDED,
    HEAD,
    IDLE,
    LINGERING,
    NEVER,
    NEXT,
    ConnectionState,
    durations,
)

_DISCARD_BYTES = 64 << 10
"""A body up to this size is read to its end even if the response is known already, so that the connection can go on."""


class Owner(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: Limits
    stopping: bool
    waiting_bytes: int
    date: bytes
    now: Callable[[], float]

    def admit(self, connection: Connection) -> Response | None:
        """Count a new connection; return a refusal if it exceeds a limit."""

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that has ended."""

    def release(self, exchange: Exchange) -> None:
        """Subtract a body from `waiting_bytes`."""

    def refused(self, response: Response) -> None:
        """Count a refusal that no handler saw."""


class Exchange:
    """A request and its response, which leaves in the order of the requests."""

    __slots__ = ("close", "connection", "early", "request", "response", "size")

    def __init__(self, connection: Connection, request: Request | None, *, close: bool) -> None:
        self.connection, self.request, self.close = connection, request, close
        self.early: Response | None = None
        self.response: Response | None = None
        self.size = 0

    def respond(self, response: Response) -> None:
        """Respond, as soon as all earlier responses have left. To be called in the loop's thread."""
        if self.response is None:
            self.response = response
            self.connection.flush()


class Connection(asyncio.Protocol):
    """A bounded use of bytes and time. The server ends it once `deadline` or `write_deadline` (loop time) passes."""

    def __init__(self, server: Owner) -> None:
        self._server, self._limits, self._now = server, server.limits, server.now
        self._durations = durations(server.limits)
        self._exchanges: deque[Exchange] = deque()
        """Complete requests whose responses have not left, oldest first."""
        self._receiving: Exchange | None = None
        self._chunks: list[bytes] = []
        self._unread, self._offset = b"", 0
        """Data that is not parsed, from the offset on, until earlier responses have left."""
        self._reading_paused = self._writing_paused = self._continuing = False
        self.state = IDLE
        self.deadline = self.write_deadline = NEVER

    def enter(self, state: ConnectionState) -> None:
        """Change the state; its deadline begins now."""
        assert state in NEXT[self.state], (self.state, state)
        self.state = state
        self.deadline = self._now() + self._durations[state]

    # -- the transport's calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._reader = RequestReader(self, self.peer, self._limits)
        self.deadline = self._now() + self._limits.head_seconds
        refusal = self._server.admit(self)
        if refusal is not None:
            self._refuse(refusal)

    def connection_lost(self, error: Exception | None) -> None:
        self.enter(CLOSED)
        for exchange in self._exchanges:
            self._server.release(exchange)
        if self._receiving is not None:
            self._server.release(self._receiving)
        self._exchanges.clear()
        self._receiving, self._chunks = None, []
        self._keep(b"")
        self._reader.close()
        del self._reader  # it refers to us: otherwise both would live until the next full collection
        self._server.forget(self)

    def eof_received(self) -> bool:
        """Finish the responses due to a client that has closed its sending side, unless a request was cut off."""
        if not self._exchanges or self.state not in (IDLE, CLOSING):
            return False
        self._exchanges[-1].close = True
        if self.state is IDLE:
            self.enter(CLOSING)
        return True

    def data_received(self, data: bytes) -> None:
        if self.state in ENDED:
            return
        if self._reading_paused or self._reader.request_end(data, 0) < len(data):
            self._keep(self._unread[self._offset :] + data)
            if not self._reading_paused:
                self._continue_reading()
            return
        refusal = self._reader.feed(data)
        if refusal is not None:
            self._refuse(refusal)

    def pause_writing(self) -> None:
        self._writing_paused = True
        self.write_deadline = self._now() + self._limits.write_seconds
        self._pause_or_resume_reading()

    def resume_writing(self) -> None:
        self._writing_paused, self.write_deadline = False, NEVER
        self._pause_or_resume_reading()

    # -- the reader's calls ----------------------------------------------------------------------

    @property
    def body_bytes(self) -> int:
        """How much of the body that is being received has arrived."""
        return 0 if self._receiving is None else self._receiving.size

    def on_head(self, request: Request, version: str, keep_alive: bool) -> None:
        """Ask the handler whether the headers decide the response; then answer Expect."""
        exchange = Exchange(self, request, close=not keep_alive)
        self._receiving, self._chunks = exchange, []
        exchange.early = self._server.handler.early_response(request)
        expected, length = request.headers.get(b"expect"), request.length
        if expected is not None and version == "1.1":
            if expected.lower() != b"100-continue":
                raise Refusal(refuse(417, "bad_request", "the only expectation supported is 100-continue"))
            if exchange.early is None and length != 0 and not self._exchanges:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if exchange.early is not None and (expected is not None or length is None or length > _DISCARD_BYTES):
            raise Refusal(exchange.early)

    def on_chunk(self, chunk: bytes) -> None:
        """Keep a part of the body, within the limits; of a request that is already answered, discard it."""
        exchange = self._receiving
        assert exchange is not None
        exchange.size += len(chunk)
        if exchange.early is not None:
            return
        if exchange.size > self._limits.max_body_bytes:
            raise Refusal(body_too_large(self._limits))
        self._server.waiting_bytes += len(chunk)
        self._chunks.append(chunk)
        if self._server.waiting_bytes > self._limits.max_waiting_bytes:
            raise Refusal(_busy())

    def on_complete(self) -> None:
        """Hand the request over, or respond at once if its headers decided that."""
        exchange = self._receiving
        assert exchange is not None and exchange.request is not None
        self._receiving = None
        self._exchanges.append(exchange)
        exchange.close = exchange.close or self._server.stopping
        if exchange.early is not None:
            exchange.respond(exchange.early)
        else:
            chunks, self._chunks = self._chunks, []  # a connection that is kept open keeps no body
            exchange.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._server.handler.handle(exchange.request, exchange.respond)
        if len(self._exchanges) >= self._limits.max_pipelined:
            self._pause_or_resume_reading()

    # -- the server's calls ----------------------------------------------------------------------

    def expire(self) -> None:
        """End a connection whose deadline has passed: an unfinished request gets a 408, an idle one nothing."""
        if self.state is HEAD:
            self._refuse(refuse(408, "too_slow", f"head_seconds is {self._limits.head_seconds:g}"))
        elif self.state is BODY:
            self._refuse(refuse(408, "too_slow", f"body_seconds is {self._limits.body_seconds:g}"))
        else:
            self.transport.abort()

    def stop(self) -> None:
        """Close once nothing is due; a request that is being received may finish."""
        if self.state is IDLE and not self._exchanges:
            self._keep(b"")
            self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()

    # -- responding and ending -------------------------------------------------------------------

    def flush(self) -> None:
        """Send every response whose turn it is."""
        if self.state is CLOSED:
            return
        out: list[bytes] = []
        while self._exchanges and (response := self._exchanges[0].response) is not None:
            exchange = self._exchanges.popleft()
            self._server.release(exchange)
            head_only = exchange.request is not None and exchange.request.method == "HEAD"
            close = exchange.close or (self._server.stopping and not self._exchanges and self.state is IDLE)
            out.append(response.encode(date=self._server.date, close=close, without_body=head_only))
            if close:
                self._end(out)
                return
        if out:
            self.transport.write(b"".join(out) if len(out) > 1 else out[0])
            if not self._exchanges and self.state is IDLE:
                self.deadline = self._now() + self._limits.idle_seconds
            if self._reading_paused:
                self._pause_or_resume_reading()

    def _refuse(self, refusal: Response) -> None:
        """Respond after the responses that are due, then end the connection."""
        if self._receiving is not None:
            self._server.release(self._receiving)
            self._receiving, self._chunks = None, []
        if self.state in ENDED:
            return
        self.enter(CLOSING)
        if not (self._exchanges and self._exchanges[-1].close):
            exchange = Exchange(self, None, close=True)
            self._exchanges.append(exchange)
            self._server.refused(refusal)
            exchange.respond(refusal)

    def _end(self, out: list[bytes]) -> None:
        """Send the last responses, then linger: closing with unread bytes would reset the connection under them."""
        self.transport.write(b"".join(out))
        self._exchanges.clear()
        self._keep(b"")
        self.enter(LINGERING)
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _is_behind(self) -> bool:
        """Return whether responses must leave before another request is parsed."""
        return self._writing_paused or len(self._exchanges) >= self._limits.max_pipelined

    def _keep(self, data: bytes) -> None:
        """Keep this data for later, instead of what was kept before. Until it is parsed it counts as waiting."""
        self._server.waiting_bytes += len(data) - (len(self._unread) - self._offset)
        self._unread, self._offset = data, 0

    def _continue_reading(self) -> None:
        """Parse the kept data request by request, until responses must leave first.

        One segment may hold thousands of requests, and a page is answered while its request is parsed.
        """
        self._continuing = True
        try:
            while self._offset < len(self._unread) and self.state not in ENDED and not self._is_behind():
                start, end = self._offset, self._reader.request_end(self._unread, self._offset)
                self._offset = end
                self._server.waiting_bytes -= end - start
                refusal = self._reader.feed(self._unread[start:end])
                if refusal is not None:
                    self._refuse(refusal)
        except BaseException:
            self.transport.abort()  # otherwise it would hang
            raise
        self._continuing = False
        complete = self._offset >= len(self._unread)
        if not complete and self._server.waiting_bytes > self._limits.max_waiting_bytes:
            self._refuse(_busy())
        if complete or self.state in ENDED:
            self._keep(b"")
        self._pause_or_resume_reading()

    def _pause_or_resume_reading(self) -> None:
        """Stop reading from a client that sends requests faster than it reads responses."""
        if self.state in (LINGERING, CLOSED):
            return
        behind = self._is_behind()
        if self._unread and not behind and not self._continuing:
            self._continuing = True  # later, because the caller may be a group commit that has more requests to answer
            asyncio.get_running_loop().call_soon(self._continue_reading)
        pause = behind or bool(self._unread)
        if pause == self._reading_paused:
            return
        self._reading_paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


def _busy() -> Response:
    message = "too many request bodies are waiting (max_waiting_bytes)"
    return refuse(503, "busy", message, "send it again", b"retry-after: 1")
