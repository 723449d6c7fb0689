"""The cluster's servers as local processes: Kafka, HDFS, Hive Metastore, Presto; Trino and Spark on request.

from questlog.stack import Stack

with Stack(folder, ports="free") as stack:
    print(stack.addresses.kafka)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from questlog.errors import QuestlogError
from questlog.stack.fetch import jars as jars
from questlog.stack.fetch import spark_jars as spark_jars
from questlog.stack.layout import StackLayout, current_ports, find_java, open_layout
from questlog.stack.processes import end, memory_mb, recall

if TYPE_CHECKING:
    from questlog.stack.servers import Server

UP_SECONDS = 420.0
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Addresses:
    """The address of each server."""

    kafka: str
    hdfs: str
    warehouse: str
    metastore: str
    presto: str
    trino: str
    spark: str


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one server; `found` is the result of its health check, or the error."""

    name: str
    healthy: bool
    state: str
    port: int
    pid: int
    restarts: int
    memory_mb: float
    found: str


def addresses(folder: Path) -> Addresses:
    """Return the addresses of the stack in *folder*, whether it runs or not."""
    ports = current_ports(folder)
    hdfs = f"hdfs://127.0.0.1:{ports['namenode']}"
    return Addresses(
        kafka=f"127.0.0.1:{ports['kafka']}",
        hdfs=hdfs,
        warehouse=f"{hdfs}/warehouse",
        metastore=f"thrift://127.0.0.1:{ports['metastore']}",
        presto=f"http://127.0.0.1:{ports['presto']}",
        trino=f"trino+http://127.0.0.1:{ports['trino']}",
        spark=f"spark://127.0.0.1:{ports['spark']}",
    )


class Stack:
    """The servers whose data is in *folder*. As a context manager, it starts them and always stops them at the end."""

    def __init__(
        self, folder: Path | str, *, ports: str = "", only: Sequence[str] = (), also: Sequence[str] = ()
    ) -> None:
        """Start the servers in *only*; by default all that need no option, and those of the options in *also*."""
        self.folder = Path(folder).resolve()
        self._ports, self._only, self._also = ports, tuple(only), tuple(also)

    @property
    def layout(self) -> StackLayout:
        """Its folders and ports, as of its last start."""
        return StackLayout(self.folder, current_ports(self.folder), find_java())

    def settle(self) -> StackLayout:
        """Return its folders, and the ports of its next start."""
        return open_layout(self.folder, self._ports)

    @property
    def addresses(self) -> Addresses:
        """The addresses of its servers."""
        return addresses(self.folder)

    @property
    def servers(self) -> list[Server]:
        """Its servers, in the order in which they start."""
        from questlog.stack.servers import SERVERS

        unknown = [name for name in self._only if name not in SERVERS]
        if unknown:
            raise QuestlogError(f"there is no server {unknown[0]}", hint=f"servers: {', '.join(SERVERS)}")
        if self._only:
            return [s for n, s in SERVERS.items() if n in self._only or (s.option and s.option in self._also)]
        return [server for server in SERVERS.values() if not server.option or server.option in self._also]

    def fetch(self, report: Progress = lambda line: None) -> None:
        """Download the servers, after checking that this machine can run them."""
        from questlog.stack.fetch import fetch

        for server in self.servers:
            server.requires()
        for part in dict.fromkeys(server.part for server in self.servers):
            fetch(part, report)

    def up(self, report: Progress = lambda line: None, *, while_pid: int = 0) -> None:
        """Start the servers in the background and return when all of them work.

        With *while_pid* they stop when that process exits, however it ends.
        """
        self.settle().run.mkdir(parents=True, exist_ok=True)
        (self.folder / "logs").mkdir(exist_ok=True)
        self.fetch(report)
        words = [sys.executable, "-m", "questlog.stack", str(self.folder), "--ports", self._ports]
        words += ["--only", ",".join(server.name for server in self.servers), "--while", str(while_pid)]
        with (self.folder / "logs" / "supervisor.log").open("wb") as log:
            started = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
            )
        try:
            self._await(started, report)
        except BaseException:
            started.terminate()
            started.wait()
            raise

    def _await(self, started: subprocess.Popen[bytes], report: Progress) -> None:
        from questlog.stack.supervisor import StackBusy, read_states

        deadline, last = time.monotonic() + UP_SECONDS, ""
        while True:
            if started.poll() is not None:
                output = (self.folder / "logs" / "supervisor.log").read_text("utf-8").strip()
                kind = StackBusy if started.returncode == StackBusy.exit_code else QuestlogError
                raise kind(output or f"the supervisor exited with {started.returncode}", hint="questlog stack status")
            states = read_states(self.folder / "run")
            supervisor = recall(self.folder / "run" / "supervisor.json")
            mine = supervisor is not None and supervisor.pid == started.pid
            names = [server.name for server in self.servers]
            line = ", ".join(f"{name} {states[name].state}" for name in names if name in states)
            if mine and line != last:
                last = line
                report(line)
            if mine and all(name in states and states[name].state == "healthy" for name in names):
                return
            if time.monotonic() > deadline:
                raise QuestlogError(f"the stack is not up after {UP_SECONDS:g} s: {line}", hint="questlog stack logs")
            time.sleep(0.1)

    def down(self, report: Progress = lambda line: None) -> bool:
        """Stop every process of this stack; return whether any was running."""
        from questlog.stack.servers import SERVERS

        ran = False
        supervisor = recall(self.folder / "run" / "supervisor.json")
        if supervisor is not None:
            report("stopping the servers")
            ran = True
            end(supervisor, sum(server.stop_seconds for server in SERVERS.values()))
        for server in reversed(list(SERVERS.values())):  # a server whose supervisor was killed
            file = self.folder / "run" / f"{server.name}.json"
            identity = recall(file)
            if identity is not None:
                report(f"stopping {server.name}")
                ran = True
                end(identity, server.stop_seconds)
            file.unlink(missing_ok=True)
        return ran

    def status(self) -> list[Health]:
        """Run every server's health check; for a server with an option, only if it was started."""
        from concurrent.futures import ThreadPoolExecutor

        from questlog.stack.servers import SERVERS
        from questlog.stack.supervisor import read_states

        mine, started = {server.name for server in self.servers}, read_states(self.folder / "run")
        asked = [s for n, s in SERVERS.items() if n in mine or (s.option and n in started and not self._only)]
        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(self._ask, asked))

    def _ask(self, server: Server) -> Health:
        from questlog.stack.supervisor import read_states

        recorded = read_states(self.folder / "run").get(server.name)
        identity = recall(self.folder / "run" / f"{server.name}.json")
        port = current_ports(self.folder)[server.ports[0]]
        restarts = recorded.restarts if recorded else 0
        if identity is None:
            state = recorded.state if recorded and recorded.state in ("restarting", "failed", "waiting") else "stopped"
            return Health(server.name, False, state, port, 0, restarts, 0.0, recorded.trouble if recorded else "")
        try:
            outcome, healthy = server.check(self.layout), True
        except Exception as error:  # clients raise errors of many kinds
            outcome, healthy = str(error), False
        state = "healthy" if healthy else recorded.state if recorded and recorded.state != "healthy" else "sick"
        return Health(
            server.name, healthy, state, port, identity.pid, restarts, round(memory_mb(identity.pid), 1), outcome
        )

    def reset(self) -> None:
        """Delete the servers' data and logs; raise `QuestlogError` if the stack is running."""
        if recall(self.folder / "run" / "supervisor.json") is not None or any(
            recall(file) is not None for file in (self.folder / "run").glob("*.json")
        ):
            raise QuestlogError(f"the stack in {self.folder} is running", hint="questlog stack down")
        for name in ("data", "etc", "run", "logs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "ports.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.up(while_pid=os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        self.down()
