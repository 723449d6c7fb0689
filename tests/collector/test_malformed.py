"""Malformed requests: each is refused and its connection closed, while other connections are not affected."""

import gzip
import http.client
import json
import zlib

import pytest

from support.collector_process import Collector

EVENT = b'{"event_type": "join_guild", "guild": "malformed"}'
POST = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def post(body: bytes, *headers: bytes) -> bytes:
    return POST + b"".join(each + b"\r\n" for each in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


FRAMING = {
    "no host": b"POST /v1/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    "two hosts": b"POST /v1/events HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "length in a list": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "negative length": POST + b"Content-Length: -1\r\n\r\n{}",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "length in hex": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "length without digits": POST + b"Content-Length: two\r\n\r\n{}",
    "empty length": POST + b"Content-Length: \r\n\r\n{}",
    "length beyond 64 bits": POST + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "length with a space inside": POST + b"Content-Length: 1 2\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip\r\n\r\n",
    "coding twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "coding in two lines": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks over 1.0": b"POST /v1/events HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size without digits": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n",
    "chunk size with 0x": CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n",
    "huge chunk": CHUNKED + b"fffffffffffffffff\r\n{}",
    "chunk longer than its size": CHUNKED + b"1\r\n{}\r\n0\r\n\r\n",
    "chunk without its end": CHUNKED + b"2\r\n{}0\r\n\r\n",
    "chunk with a bare line feed": CHUNKED + b"2\n{}\n0\n\n",
    "empty chunk size": CHUNKED + b"\r\n{}\r\n0\r\n\r\n",
    "space before a colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": POST + b"X-A: 1\r\n  2\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a colon": POST + b"nonsense\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a name": POST + b": x\r\nContent-Length: 2\r\n\r\n{}",
    "a zero byte in a header": POST + b"X-A: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "a zero byte in a name": POST + b"X\x00A: a\r\nContent-Length: 2\r\n\r\n{}",
    "a lone carriage return": POST + b"X-A: a\rX-B: b\r\nContent-Length: 2\r\n\r\n{}",
    "a header of 20 KiB": POST + b"X-A: " + b"a" * (20 << 10) + b"\r\nContent-Length: 2\r\n\r\n{}",
    "a header that never ends": POST + b"X-A: " + b"a" * (100 << 10),
    "20 KiB of an unfinished header": POST + b"X-A: " + b"a" * (20 << 10),
    "a name of 20 KiB": POST + b"a" * (20 << 10) + b": x\r\nContent-Length: 2\r\n\r\n{}",
    "1,000 headers": POST + b"A: b\r\n" * 1000 + b"Content-Length: 2\r\n\r\n{}",
    "a target of 20 KiB": b"POST /" + b"a" * (20 << 10) + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    "a type twice": post(EVENT, b"Content-Type: text/plain", b"Content-Type: application/json"),
    "a key twice": post(EVENT, b"X-Write-Key: a", b"X-Write-Key: b"),
    "a coding of content twice": post(EVENT, b"Content-Encoding: gzip", b"Content-Encoding: identity"),
    "HTTP/2 prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "HTTP/3.0": b"GET /healthz HTTP/3.0\r\nHost: x\r\n\r\n",
    "HTTP/1.9": b"GET /healthz HTTP/1.9\r\nHost: x\r\n\r\n",
    "another protocol's name": b"GET /healthz HTTPS/1.1\r\nHost: x\r\n\r\n",
    "no method": b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "an unknown method": b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(500),
    "text": b"hello\r\n\r\n",
    "another expectation": post(EVENT, b"Expect: a miracle"),
}
"""The connection is closed after these."""

BODIES = {
    "a truncated array": post(b"[" + EVENT),
    "invalid gzip": post(EVENT, b"Content-Encoding: gzip"),
    "invalid zstd": post(EVENT, b"Content-Encoding: zstd"),
    "truncated gzip": post(gzip.compress(EVENT)[:-4], b"Content-Encoding: gzip"),
    "gzip with a wrong checksum": post(gzip.compress(EVENT)[:-8] + b"\0\0\0\0" + gzip.compress(EVENT)[-4:],
                                  b"Content-Encoding: gzip"),
    "zlib called gzip": post(zlib.compress(EVENT), b"Content-Encoding: gzip"),
    "gzip in gzip": post(gzip.compress(gzip.compress(EVENT)), b"Content-Encoding: gzip, gzip"),
    "an unsupported coding": post(EVENT, b"Content-Encoding: br"),
    "a gzip bomb": post(gzip.compress(bytes(100 << 20), 9), b"Content-Encoding: gzip"),
    "a bomb of many members": post(gzip.compress(bytes(1 << 20), 9) * 50, b"Content-Encoding: gzip"),
    "a picture": post(b"GIF89a", b"Content-Type: image/gif"),
    "an empty body": post(b""),
}  # fmt: skip
"""Complete requests with invalid bodies: the connection stays open."""


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def send_good(connection: http.client.HTTPConnection, name: str) -> None:
    connection.request("POST", "/v1/events", json.dumps({"event_type": "join_guild", "guild": name}))
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())["accepted"]) == (200, 1)


@pytest.mark.parametrize("name", [*FRAMING, *BODIES])
def test_it_is_refused_and_other_connections_are_not_affected(collector: Collector, name: str) -> None:
    good = http.client.HTTPConnection(collector.host, collector.port, timeout=20)
    send_good(good, name)
    if name in FRAMING:
        answer = collector.raw(FRAMING[name])  # returns only because the server closes
        assert b"connection: close" in answer.lower()
    else:
        answer = collector.raw(BODIES[name] + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 ") == 2 and b"alive" in answer
    assert 400 <= status_of(answer) < 600 and status_of(answer) not in (500, 503)
    send_good(good, name)
    good.close()


def test_nothing_is_recorded(collector: Collector) -> None:
    for each in (*FRAMING.values(), *BODIES.values()):
        collector.raw(each + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert collector.sql("select count(*) from join_guild where guild = 'malformed'") == [(0,)]
    assert collector.sql("select count(*) from quarantine") == [(0,)]
