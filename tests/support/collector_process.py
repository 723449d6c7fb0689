"""Runs a real collector in its own process, sends it requests over real sockets, and queries the result in SQL."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import questlog
from support.paths import SWORDS
from support.waiting import until

SWORDS = SWORDS / "plan.toml"
_ADDRESS = re.compile(r"on http://([^\s]+):(\d+)")


@dataclass
class Answered:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def outcomes(self) -> list[str]:
        """The receipts' outcomes, in order."""
        return [receipt["outcome"] for receipt in self.json["receipts"]]


class Collector:
    """`questlog collect` on a project folder."""

    def __init__(
        self,
        root: Path,
        *options: str,
        plan: str = "",
        environment: Mapping[str, str] | None = None,
        command: str = "collect",
    ) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        if plan:
            (root / "plan.toml").write_text(plan)
        elif not (root / "plan.toml").exists():
            shutil.copyfile(SWORDS, root / "plan.toml")
        self._output_path = root / "collector.out"
        where = ["--port", "0"] if command == "collect" and "--port" not in options else []
        argv = [sys.executable, "-m", "questlog", "-C", str(root), command, *where, *options]
        self._from = self._output_path.stat().st_size if self._output_path.exists() else 0
        with self._output_path.open("ab") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, env=environment)
        try:
            self._find()
        except BaseException:
            self.__exit__()  # no caller has a reference to the process yet
            raise

    def _find(self) -> None:
        """Wait until it responds, and set its address."""
        until(lambda: _ADDRESS.search(self.output()) or self.process.poll() is not None, "the collector listens")
        address = _ADDRESS.search(self.output())
        assert address, self.output()
        self.host, self.port = address.group(1), int(address.group(2))
        until(lambda: self.request("GET", "/healthz").status == 200, "the collector answers")

    def output(self) -> str:
        """Return its output so far."""
        return self._output_path.read_bytes()[self._from :].decode(errors="replace")

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answered:
        """Send one request on its own connection."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answered(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def send(self, *events: Any, path: str = "/v1/events", **headers: str) -> Answered:
        """Post events as JSON: one as itself, several as an array."""
        body = json.dumps(events[0] if len(events) == 1 else list(events))
        sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", path, body, sent)

    def raw(self, data: bytes, *, seconds: float = 20) -> bytes:
        """Send bytes as they are; return everything received until the server closes the connection."""
        with socket.create_connection((self.host, self.port), timeout=seconds) as client:
            client.sendall(data)
            return read_all(client)

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Query the project."""
        with questlog.open(str(self.root)) as pipeline:
            return pipeline.sql(text).rows()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it; return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()


def read_all(client: socket.socket) -> bytes:
    """Return everything received until the other side closes the connection."""
    received = b""
    try:
        while part := client.recv(1 << 16):
            received += part
    except ConnectionResetError:
        pass
    return received
