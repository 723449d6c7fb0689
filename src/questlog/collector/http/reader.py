"""Reads requests from a connection's bytes, and refuses framing that two servers could understand differently.

httptools (llhttp) parses; what its grammar accepts and we do not is refused here. A refusal is the last response of
its connection: after it, the start of the next request is unknown.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from questlog.collector.http import Request, Response, refuse
from questlog.collector.http.limits import Limits
from questlog.collector.http.states import BODY, ENDED, HEAD, IDLE, ConnectionState

_ONCE = frozenset(
    (b"host", b"content-type", b"content-encoding", b"authorization", b"x-write-key", b"expect", b"origin",
     b"x-sent-time", b"x-signature", b"x-signature-time")
)  # fmt: skip
"""Headers that mean something else when they are sent twice."""
_HEAD_END = b"\r\n\r\n"
"""Ends every head and every chunked body; llhttp does not accept bare line feeds instead."""


class Refusal(Exception):
    """Stops the parser; *response* is the connection's last."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


class Receiver(Protocol):
    """What the reader needs of its connection. Each `on_` method may raise `Refusal`."""

    state: ConnectionState

    @property
    def body_bytes(self) -> int:
        """How much of the body that is being received has arrived."""

    def enter(self, state: ConnectionState) -> None:
        """Change the state."""

    def on_head(self, request: Request, version: str, keep_alive: bool) -> None:
        """Take a request whose headers are complete; its body follows, perhaps an empty one."""

    def on_chunk(self, chunk: bytes) -> None:
        """Take a part of the body."""

    def on_complete(self) -> None:
        """Handle the request: its body is complete."""


class RequestReader:
    """Feeds a parser and moves its connection from IDLE through HEAD and BODY back to IDLE, request by request."""

    def __init__(self, connection: Receiver, peer: str, limits: Limits) -> None:
        self._connection, self._peer, self._limits = connection, peer, limits
        self.on_body = connection.on_chunk  # the parser calls it directly, once for every chunk
        self._parser = httptools.HttpRequestParser(self)
        self._request: Request | None = None
        self._upgrade_asked = False
        self._headers: dict[bytes, bytes] = {}
        self._target = b""
        self._head_bytes = self._header_lines = 0
        self._raw_bytes = self._first_bytes = 0

    def close(self) -> None:
        """Release what refers back to us and to the connection."""
        del self._parser, self.on_body

    def request_end(self, data: bytes, start: int) -> int:
        """Return the end of a piece of *data*, from *start* on, that completes at most one request.

        This costs a search for the end of the head. Usually the data is one request or a part of one, and is one piece.
        """
        state, request = self._connection.state, self._request
        if state is BODY and request is not None and request.length is not None:
            left = request.length - self._connection.body_bytes
            if left > 0:
                return min(start + left, len(data))
        end = data.find(_HEAD_END, start) + len(_HEAD_END)
        if end < len(_HEAD_END) or (end == len(data) and state is IDLE):
            return len(data)
        if state is IDLE:  # without a line end, the rest can only be a body
            return end if data.rfind(b"\n", end) >= 0 else len(data)
        rest = data[start : start + 3]  # the end of a head may have arrived in two parts
        return start + len(rest) - len(rest.lstrip(b"\r\n")) if rest[0] in b"\r\n" else end

    def feed(self, data: bytes) -> Response | None:
        """Parse what arrived; return the refusal that ends the connection, or None."""
        self._raw_bytes += len(data)
        self._first_bytes = len(data) if self._connection.state is IDLE else 0
        try:
            refusal = self._parse(data)
            if self._raw_bytes > self._limits.max_head_bytes:
                return refusal or self._check_raw_bytes()
            return refusal
        except httptools.HttpParserError as error:
            if self._connection.state in ENDED:  # in the middle of this data
                return None
            return _refusal_of(error)

    def _parse(self, data: bytes) -> Response | None:
        """Parse. After the headers of a request that asks for another protocol the parser stops, and we go on."""
        while True:
            try:
                self._parser.feed_data(data)
                return None
            except httptools.HttpParserUpgrade as stopped:
                if not self._upgrade_asked:
                    return refuse(400, "bad_request", "this server is not a proxy")
                data = data[stopped.args[0] :]
                self._ignore_upgrade()

    def _ignore_upgrade(self) -> None:
        """Read the body as if no upgrade had been asked for: Java's HttpClient asks for HTTP/2 and accepts HTTP/1.1."""
        assert self._request is not None
        self._upgrade_asked = False
        length = self._request.length
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    def _check_raw_bytes(self) -> Response | None:
        """Refuse a head or a chunked body that grows without ever yielding a header or a byte of the body."""
        limits, state = self._limits, self._connection.state
        if state is HEAD and self._raw_bytes > limits.max_head_bytes:
            return head_too_large(limits)
        if state is BODY and self._raw_bytes > limits.max_head_bytes + 2 * limits.max_body_bytes:
            return body_too_large(limits)
        return None

    # -- the parser's calls ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._request is not None:  # its headers have been read: see `_ignore_upgrade`
            return
        self._headers = {}
        self._target = b""
        self._head_bytes = self._header_lines = 0
        # the data begins with this request, or with earlier ones: then this one's share of it is not known
        self._raw_bytes, self._first_bytes = self._first_bytes, 0
        if self._connection.state in ENDED:  # by the response to an earlier request in the same data
            raise Refusal(refuse(400, "bad_request", "the connection has ended"))
        self._connection.enter(HEAD)

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes | None) -> None:
        if self._request is not None:  # a trailer: headers after the body are ignored
            return
        name, value, headers = name.lower(), value or b"", self._headers
        self._header_lines += 1
        self._head_bytes += len(name) + len(value) + 4
        if name in headers:
            if name in _ONCE:
                raise Refusal(refuse(400, "bad_request", f"the header {name.decode()} was sent twice"))
            value = headers[name] + b", " + value
        headers[name] = value

    def on_headers_complete(self) -> None:
        """Check what the parser does not.  1 version  2 Host  3 size  4 transfer coding  5 length."""
        if self._request is not None:
            return
        parser, headers, limits = self._parser, self._headers, self._limits
        version = parser.get_http_version()
        if version != "1.1" and version != "1.0":
            raise Refusal(refuse(505, "bad_request", "this server speaks HTTP/1.1"))
        if version == "1.1" and b"host" not in headers:
            raise Refusal(refuse(400, "bad_request", "an HTTP/1.1 request needs a Host header"))
        if self._head_bytes + len(self._target) > limits.max_head_bytes or self._header_lines > limits.max_headers:
            raise Refusal(head_too_large(limits))
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            message = "the only transfer coding supported is chunked, once, over HTTP/1.1"
            raise Refusal(refuse(501, "bad_request", message))
        length = None if coding is not None else int(headers.get(b"content-length", b"0"))
        request = Request(parser.get_method().decode(), self._target, headers, length, self._peer)
        self._upgrade_asked = parser.should_upgrade() and request.method != "CONNECT"
        self._request = request
        self._connection.enter(BODY)
        if length is not None and length > limits.max_body_bytes:
            raise Refusal(body_too_large(limits))
        self._connection.on_head(request, version, parser.should_keep_alive())

    def on_message_complete(self) -> None:
        if self._upgrade_asked:
            return
        self._request, self._raw_bytes = None, 0
        self._connection.enter(IDLE)
        self._connection.on_complete()


def _refusal_of(error: httptools.HttpParserError) -> Response:
    """Return the response to what stopped the parser.

    A separate function: a variable of `feed` that holds the cause would be in a cycle with the cause's traceback.
    """
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause.response
    if isinstance(error, httptools.HttpParserCallbackError):  # a fault of ours, not the client's
        raise error
    return refuse(400, "bad_request", f"not a valid HTTP/1.1 request: {error}")


def head_too_large(limits: Limits) -> Response:
    """Return the refusal of a request line and headers beyond the limits."""
    return refuse(431, "head_too_large", f"max_head_bytes is {limits.max_head_bytes}, max_headers {limits.max_headers}")


def body_too_large(limits: Limits) -> Response:
    """Return the refusal of a body beyond the limit."""
    return refuse(413, "body_too_large", f"max_body_bytes is {limits.max_body_bytes}", "send smaller batches")
