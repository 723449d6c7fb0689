"""The memory of a connection that has ended is released at once, not by a later garbage collection."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from questlog.collector.http import Request, Respond, Response
from questlog.collector.http.connection import Connection
from questlog.collector.http.limits import LIMITS
from questlog.collector.http.server import HttpServer, listen

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"
SENT = {
    "a head that never ends": HEAD[:-2],
    "a body that never ends": HEAD + b"[",
    "a chunked body that never ends": HEAD.replace(b"Content-Length: 20", b"Transfer-Encoding: chunked") + b"5\r\nab",
    "nonsense": b"nonsense\r\n\r\n",
    "too large a body": HEAD.replace(b" 20", b" 99999999"),
    "a whole request": HEAD + b" " * 20,
    "a request for another protocol": HEAD.replace(b"\r\n\r\n", b"\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    "nothing": b"",
}


class Fine:
    """Answers every request with 200."""

    def early_response(self, request: Request) -> Response | None:
        return None

    def handle(self, request: Request, respond: Respond) -> None:
        respond(Response(200))


@contextlib.contextmanager
def served(idle_seconds: float = 0.05) -> Iterator[int]:
    """Run a server with short deadlines in a thread; yield its port."""
    sockets, stop = listen("127.0.0.1", 0, 1), threading.Event()
    limits = replace(LIMITS, head_seconds=0.05, body_seconds=0.05, idle_seconds=idle_seconds)

    async def serve() -> None:
        await HttpServer(Fine(), limits).serve(sockets, stop.is_set)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield sockets[0].getsockname()[1]
    finally:
        stop.set()
        thread.join(60)


def connections() -> list[Connection]:
    """Return all connections. isinstance would read every object's `__class__`, and load Django's settings."""
    return [each for each in gc.get_objects() if type(each) is Connection]


@pytest.mark.parametrize("sent", SENT)
def test_a_connection_that_has_ended_is_released(sent: str) -> None:
    gc.collect()
    gc.disable()
    try:
        with served() as port:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                    client.sendall(SENT[sent])
                    with contextlib.suppress(ConnectionResetError):
                        while client.recv(1 << 16):
                            pass
        assert connections() == []
    finally:
        gc.enable()


def test_an_idle_connection_holds_no_body() -> None:
    with served(idle_seconds=60) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(SENT["a whole request"])
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        [connection] = connections()
        assert connection._chunks == []
