"""What pipelined requests may cost while their responses are not read: 32 responses due, and little memory."""

import asyncio
import random
import re
import socket
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from questlog.collector.http import Request, Respond, Response
from questlog.collector.http.connection import Connection
from questlog.collector.http.limits import LIMITS
from questlog.collector.http.server import HttpServer

HIGH_WATER = 64 << 10


class Transport(asyncio.Transport):
    """A transport with flow control whose client reads only when the test says so."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.buffer, self.sent = bytearray(), bytearray()
        self.most = 0
        self.reading = True
        self.closed = self.paused = False
        self.connection: Connection

    def write(self, data: Any) -> None:
        self.buffer += data
        self.most = max(self.most, len(self.buffer))
        if len(self.buffer) > HIGH_WATER and not self.paused:
            self.paused = True
            self.connection.pause_writing()

    def drain(self) -> None:
        """Let the client read everything."""
        self.sent += self.buffer
        self.buffer.clear()
        if self.paused:
            self.paused = False
            self.connection.resume_writing()

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


class Numbered:
    """Answers each request with its path: pages at once, events when the test calls `answer`."""

    def __init__(self, page_bytes: int = 0) -> None:
        self.page_bytes = page_bytes
        self.due: list[tuple[Request, Respond]] = []
        self.handled: list[str] = []

    def early_response(self, request: Request) -> Response | None:
        return Response(401, request.path.encode()) if request.path.startswith("/early") else None

    def handle(self, request: Request, respond: Respond) -> None:
        self.handled.append(request.path)
        if request.path.startswith("/page"):
            respond(Response(200, request.path.encode() + b" " * self.page_bytes))
        else:
            self.due.append((request, respond))

    def answer(self, count: int) -> None:
        """Commit the oldest events."""
        for _ in range(min(count, len(self.due))):
            request, respond = self.due.pop(0)
            respond(Response(200, request.path.encode() + b"=" + request.body))


def connect(handler: Numbered) -> tuple[Connection, Transport]:
    transport = Transport()
    connection = transport.connection = Connection(HttpServer(handler, replace(LIMITS)))
    connection.connection_made(transport)
    return connection, transport


def page(number: int, method: str = "GET") -> bytes:
    return b"%s /page%d HTTP/1.1\r\nHost:\r\n\r\n" % (method.encode(), number)


def event(number: int, chunked: bool = False) -> bytes:
    head = b"POST /event%d HTTP/1.1\r\nHost:\r\n" % number
    text = b"\r\n\r\n%d\r\n\r\n" % number
    if chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(text), text)
    return head + b"Content-Length: %d\r\n\r\n" % len(text) + text


def paths(sent: bytes | bytearray) -> list[bytes]:
    return re.findall(rb"\r\n\r\n/([a-z]+[0-9]+)", bytes(sent))


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("page_bytes", [0, 45_000, 1_000_000])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_pages_stop_at_the_high_water_mark_until_the_client_reads(page_bytes: int, method: str) -> None:
    async def scenario() -> None:
        handler = Numbered(page_bytes)
        connection, transport = connect(handler)
        count = 1_000 if page_bytes < 1_000_000 or method == "HEAD" else 50
        connection.data_received(b"".join(page(number, method) for number in range(count)))
        await turns()
        one = 200 + (page_bytes if method == "GET" else 0)
        assert transport.most <= HIGH_WATER + one
        assert len(handler.handled) < count and not transport.reading
        while not transport.reading:
            transport.drain()
            await turns()
        transport.drain()
        assert transport.most <= HIGH_WATER + one
        assert handler.handled == [f"/page{number}" for number in range(count)]
        assert transport.sent.count(b"HTTP/1.1 200 ") == count

    asyncio.run(scenario())


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("segment", [1 << 20, 1_000, 37])
def test_no_more_than_max_pipelined_events_are_due(chunked: bool, segment: int) -> None:
    async def scenario() -> None:
        handler = Numbered()
        connection, transport = connect(handler)
        data = b"".join(event(number, chunked) for number in range(200))
        at = 0
        while len(paths(transport.sent)) < 200:
            while transport.reading and at < len(data):
                connection.data_received(data[at : at + segment])
                at += segment
            assert len(handler.due) <= LIMITS.max_pipelined
            assert transport.reading == (len(handler.due) < LIMITS.max_pipelined)
            handler.answer(7)
            transport.drain()
            await turns()
        assert paths(transport.sent) == [b"event%d" % number for number in range(200)]
        assert all(b"=\r\n\r\n%d\r\n\r\n" % number in transport.sent for number in range(200))

    asyncio.run(scenario())


def test_every_split_of_a_pipeline_gives_the_same_answers() -> None:
    """Events, pages, refusals by the headers, empty lines: in order, and at most 3 due, wherever segments end."""
    data = b"\r\n".join(
        [
            event(1),
            event(2, chunked=True),
            page(3),
            event(4),
            b"POST /early5 HTTP/1.1\r\nHost:\r\nContent-Length: 8\r\n\r\n" + b"\r\n\r\n" * 2,
            page(6),
            event(7),
            page(8, "GET"),
        ]
    )
    expected = [b"event1", b"event2", b"page3", b"event4", b"early5", b"page6", b"event7", b"page8"]

    async def scenario(cuts: list[int]) -> None:
        handler = Numbered()
        connection, transport = connect(handler)
        connection._limits = replace(LIMITS, max_pipelined=3)
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            while not transport.reading:
                assert len(connection._exchanges) == 3
                handler.answer(1)
                await turns()
            connection.data_received(data[begin:end])
            assert len(connection._exchanges) <= 3
        while handler.due:
            handler.answer(1)
            await turns()
        assert transport.buffer.count(b"HTTP/1.1 ") == 8
        assert paths(transport.buffer) == expected
        assert transport.reading and connection._unread == b""
        assert connection._server.waiting_bytes == 0

    async def all_of_them() -> None:
        for first in range(1, len(data)):
            await scenario([first])
        chance = random.Random(3)
        for _ in range(500):
            await scenario(sorted(chance.sample(range(1, len(data)), chance.randrange(2, 9))))

    asyncio.run(all_of_them())


def test_an_error_after_many_requests_is_the_last_answer() -> None:
    async def scenario() -> None:
        handler = Numbered()
        connection, transport = connect(handler)
        connection.data_received(b"".join(map(event, range(100))) + b"nonsense\r\n\r\n" + page(100))
        for _ in range(30):
            handler.answer(4)
            await turns()
        assert paths(transport.buffer) == [b"event%d" % number for number in range(100)]
        assert transport.buffer.count(b"HTTP/1.1 400 ") == 1 and b"connection: close" in transport.buffer
        assert handler.handled == [f"/event{number}" for number in range(100)]
        assert transport.reading, "what still arrives is discarded"

    asyncio.run(scenario())


def test_a_client_that_leaves_has_no_further_request_handled() -> None:
    async def scenario() -> None:
        handler = Numbered()
        connection, _ = connect(handler)
        connection.data_received(b"".join(map(event, range(100))))
        handler.answer(5)  # the loop's next turn would parse five more
        connection.connection_lost(None)
        await turns()
        handler.answer(100)
        assert len(handler.handled) == LIMITS.max_pipelined
        assert connection._unread == b"" and connection._server.waiting_bytes == 0

    asyncio.run(scenario())


def test_a_request_to_close_ends_the_pipeline() -> None:
    async def scenario() -> None:
        handler = Numbered()
        connection, transport = connect(handler)
        last = page(1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        connection.data_received(page(0) + last + page(2) * 50)
        assert paths(transport.buffer) == [b"page0", b"page1"]
        assert transport.reading and connection._unread == b""

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 4 << 20])
def test_a_large_body_is_not_parsed_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        handler = Numbered()
        connection, _ = connect(handler)
        fed: list[int] = []
        feed = connection._reader.feed

        def recorded(data: bytes) -> Response | None:
            fed.append(len(data))
            return feed(data)

        monkeypatch.setattr(connection._reader, "feed", recorded)
        head = b"POST /event1 HTTP/1.1\r\nHost:\r\nContent-Length: %d\r\n\r\n" % size
        connection.data_received(head + (b"\r\n" * size)[:size] + page(2))
        assert fed == [len(head), size, len(page(2))] and len(handler.due) == 1
        assert len(handler.due[0][0].body) == size

    asyncio.run(scenario())


def test_requests_not_parsed_yet_count_as_waiting() -> None:
    async def scenario() -> None:
        handler = Numbered(page_bytes=45_000)
        connection, transport = connect(handler)
        connection.data_received(page(0) * 200)
        assert connection._server.waiting_bytes == len(page(0) * (200 - len(handler.handled)))
        connection.connection_lost(None)
        assert connection._server.waiting_bytes == 0
        connection, transport = connect(handler)
        connection._limits = replace(LIMITS, max_waiting_bytes=1_000)
        connection.data_received(page(0) * 200)
        assert re.findall(rb"HTTP/1.1 (\d+)", bytes(transport.buffer)) == [b"200", b"200", b"503"]
        assert b"max_waiting_bytes" in transport.buffer and connection._server.waiting_bytes == 0

    asyncio.run(scenario())


def test_stopping_drops_requests_that_are_not_parsed_yet() -> None:
    async def scenario() -> None:
        handler = Numbered(page_bytes=45_000)
        connection, transport = connect(handler)
        connection.data_received(page(0) * 200)
        connection.stop()
        transport.drain()
        await turns()
        assert transport.closed and len(handler.handled) == 2
        assert connection._server.waiting_bytes == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_real_transport_holds_little_when_its_client_does_not_read(new_loop: Any) -> None:
    async def scenario() -> None:
        handler = Numbered(page_bytes=45_000)
        server, made = HttpServer(handler), list[Connection]()

        def make() -> Connection:
            made.append(Connection(server))
            return made[0]

        listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
        with socket.create_connection(listening.sockets[0].getsockname()) as client:
            client.setblocking(False)
            last = page(999).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            client.send(b"".join(map(page, range(999))) + last)
            loop = asyncio.get_running_loop()
            until = loop.time() + 20
            while not (made and made[0]._writing_paused) and loop.time() < until:
                await asyncio.sleep(0)
            assert made[0].transport.get_write_buffer_size() <= HIGH_WATER + 46_000
            assert len(handler.handled) < 1_000
            received = bytearray()
            while part := await asyncio.wait_for(loop.sock_recv(client, 1 << 20), 20):
                received += part
            assert paths(received) == [b"page%d" % number for number in range(1_000)]
        made[0].abort()
        listening.close()
        await turns()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())
