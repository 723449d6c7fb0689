"""One client's connection: its requests in, their answers out in the same order, and a deadline for each step.

httptools (llhttp) parses; what its grammar lets through and we do not is refused here. A refusal is the last
answer of its connection: after it nobody can know where the next request begins.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from questlog.collector.http import Request, Response, refuse

if TYPE_CHECKING:
    from questlog.collector.http.server import Server

_NEVER = float("inf")
_ONCE = frozenset(
    (b"host", b"content-type", b"content-encoding", b"authorization", b"x-write-key", b"expect", b"origin",
     b"x-sent-time", b"x-signature", b"x-signature-time")
)  # fmt: skip
"""Headers that mean something else when they are sent twice."""
_DISCARD_BYTES = 64 << 10
"""A body of so many bytes is read to its end although the answer is known: so the connection can go on."""


class _Refused(Exception):
    """Ends the parser's work; the answer is in the connection."""


class Exchange:
    """A request and the place of its answer in the connection's order."""

    __slots__ = ("close", "connection", "early", "request", "response", "size")

    def __init__(self, connection: Connection, request: Request | None, *, close: bool) -> None:
        self.connection, self.request, self.close = connection, request, close
        self.early: Response | None = None
        self.response: Response | None = None
        self.size = 0

    def respond(self, response: Response) -> None:
        """Answer, at once or as soon as the answers before it have left. To be called in the loop's thread."""
        if self.response is None:
            self.response = response
            self.connection.flush()


class Connection(asyncio.Protocol):
    """Reads with bounds on bytes and time. `deadline` is when the server's watch ends it, in the loop's time."""

    def __init__(self, server: Server) -> None:
        self._server, self._limits = server, server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Exchange] = deque()
        self._receiving: Exchange | None = None
        self._chunks: list[bytes] = []
        self._state = "idle"  # then head, body, and at the end: refused, lingering, gone
        self._refusal: Response | None = None
        self._paused = self._write_paused = False
        self._asked_to_upgrade = False
        self._head_bytes = self._raw_bytes = self._first_bytes = 0
        self.deadline = self.write_deadline = _NEVER

    # -- the transport's calls -------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self.deadline = self._server.now() + self._limits.head_seconds
        refusal = self._server.admit(self)
        if refusal is not None:
            self._refuse(refusal)

    def connection_lost(self, error: Exception | None) -> None:
        self._state = "gone"
        for exchange in self._waiting:
            self._server.release(exchange)
        if self._receiving is not None:
            self._server.release(self._receiving)
        self._waiting.clear()
        self._receiving, self._chunks = None, []
        del self._parser  # it holds us and the last fault: without this, all of it waits for the next full collection
        self._server.forget(self)

    def eof_received(self) -> bool:
        """Go on answering a client that has closed its sending side; one that left a request unfinished has gone."""
        if self._state in ("idle", "refused") and self._waiting:
            self._waiting[-1].close = True
            self._state = "refused"
            return True
        return False

    def data_received(self, data: bytes) -> None:
        if self._state in ("refused", "lingering", "gone"):
            return
        self._raw_bytes += len(data)
        self._first_bytes = len(data) if self._state == "idle" else 0
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or refuse(400, "bad_request", f"this is no HTTP/1.1 request: {error}"))
        else:
            self._look_at_size()

    def _feed(self, data: bytes) -> None:
        """Parse. At the headers of a request that asks for another protocol the parser stops, and we go on."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if not self._asked_to_upgrade:
                    self._refuse(refuse(400, "bad_request", "this server is no proxy"))
                    return
                data = data[stopped.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Read a body as if nobody had asked: Java's HttpClient asks for HTTP/2 and takes HTTP/1.1 too."""
        assert self._receiving is not None and self._receiving.request is not None
        self._asked_to_upgrade = False
        length = self._receiving.request.length
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    def pause_writing(self) -> None:
        self._write_paused = True
        self.write_deadline = self._server.now() + self._limits.write_seconds
        self._read_or_not()

    def resume_writing(self) -> None:
        self._write_paused, self.write_deadline = False, _NEVER
        self._read_or_not()

    # -- the parser's calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._receiving is not None:  # its headers were read before: see `_ignore_upgrade`
            return
        if self._state in ("refused", "lingering", "gone"):  # the connection ended in the middle of what was read
            raise _Refused
        self._headers: dict[bytes, bytes] = {}
        self._target = b""
        self._head_bytes = self._lines = 0
        # what was read begins with this request, or with others: then what of it is this one's is not known
        self._raw_bytes, self._first_bytes = self._first_bytes, 0
        self._state = "head"
        self.deadline = self._server.now() + self._limits.head_seconds

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if self._state != "head":  # a trailer: nothing may be said after the body
            return
        name, value = name.lower(), value or b""
        self._lines += 1
        self._head_bytes += len(name) + len(value) + 4
        if name in self._headers:
            if name in _ONCE:
                self._stop(refuse(400, "bad_request", f"the header {name.decode()} stands there twice"))
            value = self._headers[name] + b", " + value
        self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Judge what the headers alone say.  1 framing  2 size  3 what the handler thinks  4 Expect."""
        if self._receiving is not None:
            return
        parser, headers, limits = self._parser, self._headers, self._limits
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            self._stop(refuse(505, "bad_request", "this server speaks HTTP/1.1"))
        if version == "1.1" and b"host" not in headers:
            self._stop(refuse(400, "bad_request", "an HTTP/1.1 request needs a Host header"))
        if self._head_bytes + len(self._target) > limits.max_head_bytes or self._lines > limits.max_headers:
            self._stop(self._head_too_large())
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            self._stop(refuse(501, "bad_request", "the only transfer coding here is chunked, once, over HTTP/1.1"))
        sent = headers.get(b"content-length", b"0")
        length = None if coding is not None else int(sent)
        request = Request(parser.get_method().decode(), self._target, headers, length, self.peer)
        exchange = Exchange(self, request, close=not parser.should_keep_alive())
        self._chunks = []
        self._asked_to_upgrade = parser.should_upgrade() and request.method != "CONNECT"
        self._state = "body"
        self._receiving = exchange
        self.deadline = self._server.now() + limits.body_seconds
        if length is not None and length > limits.max_body_bytes:
            self._stop(self._body_too_large())
        exchange.early = self._server.handler.early_response(request)
        self._expect(exchange, version)

    def _expect(self, exchange: Exchange, version: str) -> None:
        """Say that the body may come, or end here if the answer is known and the body is not small."""
        assert exchange.request is not None
        expected, length = exchange.request.headers.get(b"expect"), exchange.request.length
        if expected is not None and version == "1.1":
            if expected.lower() != b"100-continue":
                self._stop(refuse(417, "bad_request", "the only expectation here is 100-continue"))
            if exchange.early is None and length != 0 and not self._waiting:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if exchange.early is not None and (expected is not None or length is None or length > _DISCARD_BYTES):
            self._stop(exchange.early)

    def on_body(self, chunk: bytes) -> None:
        exchange = self._receiving
        assert exchange is not None
        if exchange.early is not None:
            return
        exchange.size += len(chunk)
        if exchange.size > self._limits.max_body_bytes:
            self._stop(self._body_too_large())
        self._server.waiting_bytes += len(chunk)
        self._chunks.append(chunk)
        if self._server.waiting_bytes > self._limits.max_waiting_bytes:
            self._stop(
                refuse(503, "busy", "too many bodies wait (max_waiting_bytes)", "send it again", b"retry-after: 1")
            )

    def on_message_complete(self) -> None:
        if self._asked_to_upgrade:
            return
        exchange = self._receiving
        assert exchange is not None and exchange.request is not None
        self._receiving = None
        self._state, self.deadline, self._raw_bytes = "idle", _NEVER, 0
        self._waiting.append(exchange)
        exchange.close = exchange.close or self._server.stopping
        if exchange.early is not None:
            exchange.respond(exchange.early)
        else:
            chunks, self._chunks = self._chunks, []  # a connection that is kept open keeps no body
            exchange.request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._server.handler.handle(exchange.request, exchange.respond)
        if len(self._waiting) >= self._limits.max_pipelined:
            self._read_or_not()

    # -- refusing and ending ---------------------------------------------------------------------

    def _look_at_size(self) -> None:
        """Refuse a head or a chunked body that grows without ever showing what it says."""
        limits = self._limits
        if self._state == "head" and self._raw_bytes > limits.max_head_bytes:
            self._refuse(self._head_too_large())
        elif self._state == "body" and self._raw_bytes > limits.max_head_bytes + 2 * limits.max_body_bytes:
            self._refuse(self._body_too_large())

    def _head_too_large(self) -> Response:
        limits = self._limits
        return refuse(
            431, "head_too_large", f"max_head_bytes is {limits.max_head_bytes}, max_headers {limits.max_headers}"
        )

    def _body_too_large(self) -> Response:
        return refuse(413, "body_too_large", f"max_body_bytes is {self._limits.max_body_bytes}", "send smaller batches")

    def _stop(self, refusal: Response) -> None:
        self._refusal = refusal
        raise _Refused

    def _refuse(self, refusal: Response) -> None:
        """Answer after the answers that are due, then end the connection."""
        if self._receiving is not None:
            self._server.release(self._receiving)
            self._receiving, self._chunks = None, []
        if self._state in ("refused", "lingering", "gone"):
            return
        self._state, self.deadline = "refused", _NEVER
        if not (self._waiting and self._waiting[-1].close):
            exchange = Exchange(self, None, close=True)
            self._waiting.append(exchange)
            self._server.refused(refusal)
            exchange.respond(refusal)

    def expire(self) -> None:
        """End what took too long: a request that has begun hears why, an idle connection just ends."""
        if self._state == "head":
            self._refuse(refuse(408, "too_slow", f"head_seconds is {self._limits.head_seconds:g}"))
        elif self._state == "body":
            self._refuse(refuse(408, "too_slow", f"body_seconds is {self._limits.body_seconds:g}"))
        else:
            self.transport.abort()

    def stop(self) -> None:
        """End after the answers that are due; what is being received may come to its end."""
        if self._state == "idle" and not self._waiting:
            self.transport.close()

    def abort(self) -> None:
        """End now."""
        self.transport.abort()

    def flush(self) -> None:
        """Send the answers whose turn it is."""
        if self._state == "gone":
            return
        out: list[bytes] = []
        while self._waiting and (response := self._waiting[0].response) is not None:
            exchange = self._waiting.popleft()
            self._server.release(exchange)
            head_only = exchange.request is not None and exchange.request.method == "HEAD"
            close = exchange.close or (self._server.stopping and not self._waiting and self._state == "idle")
            out.append(response.encode(date=self._server.date, close=close, without_body=head_only))
            if close:
                self._end(out)
                return
        if out:
            self.transport.write(b"".join(out) if len(out) > 1 else out[0])
            if not self._waiting and self._state == "idle":
                self.deadline = self._server.now() + self._limits.idle_seconds
            if self._paused:
                self._read_or_not()

    def _end(self, out: list[bytes]) -> None:
        """Send the last answers. Closing with unread bytes would reset the connection under the answer's feet."""
        self.transport.write(b"".join(out))
        self._waiting.clear()
        self._state = "lingering"
        self.deadline = self._server.now() + self._limits.linger_seconds
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _read_or_not(self) -> None:
        """Stop reading from a client that sends more than it takes answers."""
        pause = self._write_paused or len(self._waiting) >= self._limits.max_pipelined
        if pause == self._paused or self._state in ("lingering", "gone"):
            return
        self._paused = pause
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
