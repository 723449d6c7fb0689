"""A web site with one page that loads `questlog.js` and passes posts to a real collector, as a reverse proxy would."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.paths import ROOT

SCRIPT = ROOT / "src" / "questlog" / "collector" / "static" / "questlog.js"
PAGE = b'<!doctype html><title>game</title><script src="/v1/questlog.js" data-key="any-key"></script>'


class Website(ThreadingHTTPServer):
    """`faults` replace the answers to the next posts, one each: a status with headers, or "lose the answer"."""

    daemon_threads = True

    def __init__(self, collector_port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.collector_port, self.page = collector_port, PAGE
        self.faults: list[tuple[int, dict[str, str]] | str] = []
        self.batches: list[bytes] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, address: Any) -> None:
        """Do not log browsers that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    server: Website
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_script = self.path == "/v1/questlog.js"
        kind = "text/javascript" if is_script else "text/html"
        self._answer(200, {"Content-Type": kind}, SCRIPT.read_bytes() if is_script else self.server.page)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            self.server.batches.append(body)
            self.server.times.append(time.monotonic())
            fault = self.server.faults.pop(0) if self.server.faults else None
        if fault is not None and not isinstance(fault, str):
            self._answer(*fault, b"said by the test")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.collector_port, timeout=20)
        connection.request("POST", self.path, body, {"Content-Type": self.headers["Content-Type"]})
        answer = connection.getresponse()
        read = answer.read()
        connection.close()
        if fault == "lose the answer":
            self.close_connection = True
            return
        self._answer(answer.status, {"Content-Type": "application/json"}, read)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Do not log requests."""
