"""A collector with scripted answers, for those that the real one gives rarely or never.

Requests without a scripted answer go through the real `accept` into a real log, so that SQL can find them.
`tests/faults/test_client_kills.py` runs clients against `questlog collect`.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

import questlog
from questlog.accept import accept
from questlog.errors import LogUnavailable

KEY = "test-key"
Make = Callable[..., questlog.Client]
"""Creates a client of the scripted collector; takes the arguments of `questlog.Client`."""


class Collector(ThreadingHTTPServer):
    """Serves one project. `requests` are the bodies that came, unpacked, with their headers."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, project: str | Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.project = questlog.open(project)
        self.script: list[tuple[int, dict[str, str], bytes] | str] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, address: Any) -> None:
        """Do not log clients that disconnect."""

    def take(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Make the events durable, and return status, headers and receipts."""
        events = [line for line in body.split(b"\n") if line]
        accepted = accept(events, self.project.plan, received_ms=time.time_ns() // 1_000_000, validate=False)
        try:
            self.project.log.append(accepted.records)
        except LogUnavailable as error:
            return 503, {"Retry-After": str(round(error.retry_after or 1))}, str(error).encode()
        count = Counter(receipt.outcome for receipt in accepted.receipts)
        receipts = [msgspec.structs.asdict(receipt) for receipt in accepted.receipts]
        return 200, {"Content-Type": "application/json"}, json.dumps({**count, "receipts": receipts}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        with self.server.lock:
            self.server.requests.append((dict(self.headers), body))
            scripted = self.server.script.pop(0) if self.server.script else None
        if scripted == "lose the answer":
            self.server.take(body)
            self.close_connection = True
            return
        if scripted is not None:
            assert not isinstance(scripted, str)
            self._answer(*scripted)
        elif self.path != "/v1/events":
            self._answer(404, {}, b"nothing is here")
        elif self.headers["Authorization"] != f"Bearer {KEY}":
            self._answer(401, {}, b"the key is wrong")
        else:
            self._answer(*self.server.take(body))

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


def levels(collector: Collector) -> list[int]:
    return [level for (level,) in collector.project.sql("select level from level_failed order by level").rows()]


def settled(client: questlog.Client, **counts: int) -> bool:
    """Return whether the queue has exactly *counts*, and 0 for every other outcome."""
    return client.counts() == {"waiting": 0, "accepted": 0, "duplicate": 0, "quarantined": 0, "rejected": 0} | counts
