"""Send requests at a constant rate, independent of the responses (an open loop). Each latency counts from the time at
which its request was due, so a server that stalls is charged for every request that it delayed.

Run: .venv/bin/python bench/steady.py PORT PATH BODY_FILE --rate 1000 [--seconds 10] [--clients 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import deque
from pathlib import Path
from typing import cast

import uvloop


class Sender:
    """Connections that send due requests in turn; if none is free, a request waits while its clock runs."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.free: deque[Client] = deque()
        self.due: deque[float] = deque()
        self.seconds: list[float] = []
        self.statuses: dict[str, int] = {}

    def send_due(self) -> None:
        while self.due and self.free:
            self.free.popleft().send(self.due.popleft())


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, sender: Sender) -> None:
        self.sender, self.answer, self.due = sender, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.sender.free.append(self)

    def send(self, due: float) -> None:
        self.due, self.answer = due, b""
        self.transport.write(self.sender.request)

    def data_received(self, data: bytes) -> None:
        self.answer += data
        head, end, body = self.answer.partition(b"\r\n\r\n")
        if not end:
            return
        _, _, length = head.lower().partition(b"content-length: ")
        if len(body) < int(length.split(b"\r\n", 1)[0] or 0):
            return
        self.sender.seconds.append(time.perf_counter() - self.due)
        status = head[9:12].decode()
        self.sender.statuses[status] = self.sender.statuses.get(status, 0) + 1
        self.sender.free.append(self)
        self.sender.send_due()


async def run(port: int, request: bytes, rate: float, seconds: float, clients: int) -> Sender:
    """Send for *seconds*, then wait for the outstanding responses."""
    sender, loop = Sender(request), asyncio.get_running_loop()
    for _ in range(clients):
        await loop.create_connection(lambda: Client(sender), "127.0.0.1", port)
    began, sent, total = time.perf_counter(), 0, int(rate * seconds)
    while sent < total:
        while sent < total and began + sent / rate <= time.perf_counter():
            sender.due.append(began + sent / rate)
            sent += 1
        sender.send_due()
        await asyncio.sleep(0.0005)
    deadline = time.perf_counter() + 10
    while len(sender.seconds) < total and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    return sender


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    body = options.body.read_bytes()
    lines = [f"POST {options.path} HTTP/1.1", "Host: game", "Content-Type: application/json"]
    request = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        done = runner.run(run(options.port, request, options.rate, options.seconds, options.clients))
    ordered = sorted(done.seconds)
    print(
        json.dumps(
            {
                "asked per second": round(options.rate),
                "answered": len(ordered),
                "due": int(options.rate * options.seconds),
                "statuses": done.statuses,
                "p50 ms": round(ordered[len(ordered) // 2] * 1000, 2),
                "p99 ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 2),
                "max ms": round(ordered[-1] * 1000, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
