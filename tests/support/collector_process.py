"""A real collector in its own process, with requests over real sockets and queries over its project."""

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
    """One answer."""

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
        self._said = root / "collector.out"
        where = ["--port", "0"] if command == "collect" and "--port" not in options else []
        argv = [sys.executable, "-m", "questlog", "-C", str(root), command, *where, *options]
        self._from = self._said.stat().st_size if self._said.exists() else 0
        with self._said.open("ab") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, env=environment)
        try:
            self._find()
        except BaseException:
            self.__exit__()  # no caller has a reference to the process yet
            raise

    def _find(self) -> None:
        """Find its address, and return once it answers."""
        until(lambda: _ADDRESS.search(self.said()) or self.process.poll() is not None, "the collector listens")
        found = _ADDRESS.search(self.said())
        assert found, self.said()
        self.host, self.port = found.group(1), int(found.group(2))
        until(lambda: self.request("GET", "/healthz").status == 200, "the collector answers")

    def said(self) -> str:
        """Return its output so far."""
        return self._said.read_bytes()[self._from :].decode(errors="replace")

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
        """Send raw bytes; return everything that is received until the server closes."""
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
    """Return everything that is received until the other side closes."""
    found = b""
    try:
        while part := client.recv(1 << 16):
            found += part
    except ConnectionResetError:
        pass
    return found
