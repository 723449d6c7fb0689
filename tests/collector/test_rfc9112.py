"""Conformance with RFC 9112 (HTTP/1.1): valid requests are understood, and ambiguous framing ends the connection.

Every case is followed by a canary, a separate request on the same connection. Where the case is understood, the
canary is answered too, and nothing else is: no byte of the case was taken for a request. Where the case is refused,
the canary is not answered, because its start is then unknown.
"""

from dataclasses import dataclass

import pytest

from support.collector_process import Collector

EVENT = b'{"event_type": "join_guild", "guild": "%s"}'
CANARY = b"GET /healthz HTTP/1.1\r\nHost: canary\r\nConnection: close\r\n\r\n"
POST = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"
CODING = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: 2\r\n"
CHUNKED = POST + CODING + b"\r\n"
OLD_CHUNKED = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")
OLD_POST = b"POST /v1/events HTTP/1.0\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /v1/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


def post(*headers: bytes, body: bytes = EVENT % b"rfc9112", start: bytes = POST) -> bytes:
    return start + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n", head: bytes = CHUNKED) -> bytes:
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + end


@dataclass(frozen=True)
class Case:
    """Bytes, the section of RFC 9112 that decides about them, and the statuses of their responses."""

    section: str
    name: str
    data: bytes
    statuses: tuple[int, ...]


UNDERSTOOD = [
    Case("2.2", "an empty line before the request line", b"\r\n" + post(), (200,)),
    Case("2.2", "two requests in one packet", post() + post(), (200, 200)),
    Case("3", "two spaces count as one, which section 3 allows", b"GET  /healthz HTTP/1.1\r\nHost: x\r\n\r\n", (200,)),
    Case("3.2.1", "origin form with a query", post(start=b"POST /v1/events?a=b HTTP/1.1\r\nHost: x\r\n"), (200,)),
    Case("3.2.1", "a percent-encoded path is not decoded", b"GET /healt%68z HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    Case("3.2.1", "dots in a path are not resolved", b"GET /v1/../healthz HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    Case("3.2.4", "asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", (404,)),
    Case("5.1", "no space after a colon", post(b"X-A:1"), (200,)),
    Case("5.1", "spaces and tabs around a value", post(b"X-A: \t 1 \t "), (200,)),
    Case("5.1", "an empty value", post(b"X-A:"), (200,)),
    Case("5.1", "a header name in capitals", post(b"X-AAAA: 1", b"ACCEPT: */*"), (200,)),
    Case("5.5", "bytes above 127 in a value", post(b"X-A: gr\xc3\xb6\xc3\x9fe \xff"), (200,)),
    Case("6.1", "a coding's name in capitals", POST + CODING.upper() + b"\r\n2\r\n{}\r\n0\r\n\r\n", (200,)),
    Case("6.2", "a length with leading zeros", POST + b"Content-Length: 0002\r\n\r\n{}", (200,)),
    Case("6.2", "a length with spaces around it", POST + b"Content-Length: \t2 \r\n\r\n{}", (200,)),
    Case("6.3", "a GET with a body", post(body=SMUGGLED, start=GET), (200,)),
    Case("6.3", "a HEAD has no body", b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", (200,)),
    Case("6.3", "a POST without a length has no body", POST + b"\r\n", (400,)),
    Case("6.3", "a request as a body", post(body=SMUGGLED), (200,)),
    Case("7.1", "several chunks", chunked(*(bytes([each]) for each in EVENT % b"x")), (200,)),
    Case("7.1", "a chunk size with leading zeros", CHUNKED + b"0002\r\n{}\r\n000\r\n\r\n", (200,)),
    Case("7.1", "a chunk size in capitals", CHUNKED + b"A\r\n" + b" " * 8 + b"{}\r\n0\r\n\r\n", (200,)),
    Case("7.1", "a request as a chunk", chunked(SMUGGLED), (200,)),
    Case("7.1.1", "a chunk extension", CHUNKED + b"2;a\r\n{}\r\n0\r\n\r\n", (200,)),
    Case("7.1.1", "a chunk extension with a value", CHUNKED + b"2;a=b;c=d\r\n{}\r\n0\r\n\r\n", (200,)),
    Case("7.1.1", "a chunk extension in quotes", CHUNKED + b'2;a="b; c"\r\n{}\r\n0\r\n\r\n', (200,)),
    Case("7.1.1", "an extension of the last chunk", CHUNKED + b"2\r\n{}\r\n0;a=b\r\n\r\n", (200,)),
    Case("7.1.2", "a trailer", chunked(b"{}", end=b"0\r\nX-A: 1\r\n\r\n"), (200,)),
    Case("7.1.2", "a trailer cannot set the key", chunked(b"{}", end=b"0\r\nX-Write-Key: a\r\n\r\n"), (200,)),
    Case("9.3", "HTTP/1.0 with keep-alive", post(b"Connection: keep-alive", start=OLD_POST), (200,)),
]  # fmt: skip

REFUSED = [
    Case("2.2", "a lone carriage return after the request line", b"GET /healthz HTTP/1.1\rHost: x\r\n\r\n", (400,)),
    Case("2.2", "a lone carriage return in a value", post(b"X-A: a\rb"), (400,)),
    Case("2.2", "a lone carriage return before a smuggled header", post(b"X-A: a\rTransfer-Encoding: chunked"), (400,)),
    Case("2.2", "space before the first header", b"GET /healthz HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n", (400,)),
    Case("2.2", "line feeds only", b"GET /healthz HTTP/1.1\nHost: x\n\n", (400,)),
    Case("2.2", "a line feed after one header", POST + b"X-A: 1\nContent-Length: 2\r\n\r\n{}", (400,)),
    Case("2.3", "a lower-case protocol", b"GET /healthz http/1.1\r\nHost: x\r\n\r\n", (400,)),
    Case("2.3", "a version of two digits", b"GET /healthz HTTP/1.10\r\nHost: x\r\n\r\n", (400,)),
    Case("2.3", "a version without a dot", b"GET /healthz HTTP/11\r\nHost: x\r\n\r\n", (400,)),
    Case("3", "a lower-case method of the same letters", b"post /v1/events HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    Case("3", "a tab in the request line", b"GET\t/healthz HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    Case("3", "a space in the target", b"GET /health z HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    Case("3.2", "a control character in the target", b"GET /health\x01z HTTP/1.1\r\nHost: x\r\n\r\n", (400,)),
    Case("3.2", "no Host", b"GET /healthz HTTP/1.1\r\n\r\n", (400,)),
    Case("3.2", "two Hosts", b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", (400,)),
    Case("3.2", "two equal Hosts", b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", (400,)),
    Case("5.1", "a space before the colon of a coding", POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", (400,)),
    Case("5.1", "a tab before a colon", POST + b"Content-Length\t: 2\r\n\r\n{}", (400,)),
    Case("5.1", "a name with a bracket", post(b"X[A]: 1"), (400,)),
    Case("5.1", "a name with a byte above 127", post(b"X-\xc3\xb6: 1"), (400,)),
    Case("5.2", "a folded value", post(b"X-A: 1\r\n 2"), (400,)),
    Case("5.2", "a folded coding", POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", (400,)),
    Case("5.5", "a zero byte in a value", post(b"X-A: a\0b"), (400,)),
    Case("6.1", "a coding after chunked", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", (400, 501)),
    Case("6.1", "a coding before chunked", POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, 501)),
    Case("6.1", "identity", POST + b"Transfer-Encoding: identity\r\n\r\n", (400, 501)),
    Case("6.1", "chunked after a comma", POST + b"Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", (400, 501)),
    Case("6.1", "chunked with a parameter", POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", (400, 501)),
    Case("6.1", "chunked in quotes", POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', (400, 501)),
    Case("6.1", "chunked after a vertical tab", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", (400, 501)),
    Case("6.1", "an empty coding", POST + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\n{}", (400, 501)),
    Case("6.1", "a coding over HTTP/1.0", chunked(b"{}", head=OLD_CHUNKED), (400, 501)),
    Case("6.3", "a coding, then a length", POST + CODING + LENGTH + b"\r\n0\r\n\r\n", (400,)),
    Case("6.3", "a length, then a coding", POST + LENGTH + CODING + b"\r\n0\r\n\r\n", (400,)),
    Case("6.3", "a length and an unknown coding", POST + LENGTH + b"Transfer-Encoding: x\r\n\r\n{}", (400, 501)),
    Case("6.3", "two lengths", POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", (400,)),
    Case("6.3", "two equal lengths", POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", (400,)),
    Case("6.3", "a list of lengths", POST + b"Content-Length: 2, 2\r\n\r\n{}", (400,)),
    Case("6.3", "a negative length", POST + b"Content-Length: -2\r\n\r\n{}", (400,)),
    Case("6.3", "a length with a plus sign", POST + b"Content-Length: +2\r\n\r\n{}", (400,)),
    Case("6.3", "a length with an underscore", POST + b"Content-Length: 1_0\r\n\r\n{}", (400,)),
    Case("6.3", "a length in non-ASCII digits", POST + "Content-Length: ２\r\n\r\n{}".encode(), (400,)),
    Case("6.3", "a length beyond 64 bits", POST + b"Content-Length: 18446744073709551618\r\n\r\n{}", (400,)),
    Case("7.1", "a chunk size without digits", CHUNKED + b"\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk size with 0x", CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a negative chunk size", CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk size with a plus sign", CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk size with an underscore", CHUNKED + b"0_2\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk size beyond 64 bits", CHUNKED + b"10000000000000002\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk size ended by a line feed", CHUNKED + b"2\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk ended by a line feed", CHUNKED + b"2\r\n{}\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk longer than its size", CHUNKED + b"2\r\n{}{}\r\n0\r\n\r\n", (400,)),
    Case("7.1", "a chunk shorter than its size", CHUNKED + b"3\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1.1", "a line feed in a chunk extension", CHUNKED + b"2;a\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1.1", "a carriage return in a chunk extension", CHUNKED + b"2;a\rb\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1.1", "a zero byte in a chunk extension", CHUNKED + b"2;a\0b\r\n{}\r\n0\r\n\r\n", (400,)),
    Case("7.1.2", "a length in a trailer", chunked(b"{}", end=b"0\r\nContent-Length: 99\r\n\r\n"), (400,)),
    Case("7.1.2", "a folded trailer", chunked(b"{}", end=b"0\r\nX-A: 1\r\n 2\r\n\r\n"), (400,)),
    Case("7.1.2", "a trailer without a colon", chunked(b"{}", end=b"0\r\nnonsense\r\n\r\n"), (400,)),
]  # fmt: skip


def statuses(received: bytes) -> list[int]:
    """Return the status of every response."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit() and part[3:4] == b" "]


@pytest.mark.parametrize("case", UNDERSTOOD, ids=lambda case: f"{case.section} {case.name}")
def test_a_valid_request_is_answered_and_so_is_the_next(collector: Collector, case: Case) -> None:
    assert statuses(collector.raw(case.data + CANARY)) == [*case.statuses, 200]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case.section} {case.name}")
def test_it_is_refused_and_nothing_after_it_is_read(collector: Collector, case: Case) -> None:
    received = collector.raw(case.data + CANARY)
    [status] = statuses(received)
    assert status in case.statuses
    assert b"connection: close" in received.lower()
    assert statuses(collector.raw(CANARY)) == [200], "other connections continue"
