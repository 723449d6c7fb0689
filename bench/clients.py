"""64 clients in one process; each sends its next request as soon as it gets a response (a closed loop).

It uses raw sockets and epoll, so that one core of clients is faster than one core of any measured server.
Run: .venv/bin/python bench/clients.py PORT PATH --seconds 3 [--close]
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import time


class Clients:
    """Connections to one server; `--close` opens a new one for each request."""

    def __init__(self, port: int, path: str, *, count: int, close: bool) -> None:
        self._address = ("127.0.0.1", port)
        self._close = close
        ending = "Connection: close\r\n" if close else ""
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: user1.comcast.com\r\n"
            f"Accept: */*\r\nUser-Agent: ApacheBench/2.3\r\n{ending}\r\n"
        ).encode()
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._responses: dict[int, bytes] = {}
        self._sent: dict[int, float] = {}
        self.seconds: list[float] = []
        self.statuses: dict[str, int] = {}
        for _ in range(count):
            self._open()

    def _open(self) -> None:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        self._sockets[number] = connection
        self._poll.register(number, select.EPOLLIN)
        self._send(number)

    def _send(self, number: int) -> None:
        self._responses[number] = b""
        self._sent[number] = time.perf_counter()
        self._sockets[number].send(self._request)

    def run(self, seconds: float) -> None:
        """Send for *seconds*, then wait for responses in flight, so that the server's count can be compared."""
        deadline = time.perf_counter() + seconds
        while self._sockets:
            for number, _ in self._poll.poll(1):
                self._receive(number, time.perf_counter() < deadline)

    def _receive(self, number: int, again: bool) -> None:
        piece = self._sockets[number].recv(65536)
        response = self._responses[number] = self._responses[number] + piece
        if piece and not _is_complete(response):
            return
        self.seconds.append(time.perf_counter() - self._sent[number])
        status = response[9:12].decode() or "none"
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if again and piece and not self._close:
            self._send(number)
            return
        self._poll.unregister(number)
        self._sockets.pop(number).close()
        if again:
            self._open()


def _is_complete(response: bytes) -> bool:
    head, end, body = response.partition(b"\r\n\r\n")
    if not end:
        return False
    _, _, length = head.lower().partition(b"\r\ncontent-length: ")
    return len(body) >= int(length.split(b"\r\n", 1)[0] or 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--close", action="store_true")
    options = parser.parse_args()
    clients = Clients(options.port, options.path, count=options.clients, close=options.close)
    started = time.perf_counter()
    cpu = time.process_time()
    clients.run(options.seconds)
    took = time.perf_counter() - started
    ordered = sorted(clients.seconds)
    report = {
        "per second": len(ordered) / took,
        "statuses": clients.statuses,
        "p50 ms": ordered[len(ordered) // 2] * 1000,
        "p99 ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "share of a core": (time.process_time() - cpu) / took,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
