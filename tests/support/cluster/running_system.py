"""The whole system: a game under load, forwarder and lander as services, and the stack's servers."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from questlog.errors import QuestlogError
from questlog.log.kafka.topic import create_topic
from questlog.query.presto.client import PrestoServer, run
from questlog.stack import Stack, jars
from questlog.stack.processes import recall
from questlog.stack.supervisor import read_states
from support.cluster.players import Players
from support.paths import SUPPORT
from support.waiting import until

RESTART_SECONDS = 0.5
RECOVERY_SECONDS = 420.0
PLAN = """
[game]
name = "drill"
[events.purchase_sword]
table = "sword_purchases"
[events.purchase_sword.fields]
price = "decimal(12,2)"
[events.join_guild.fields]
guild = "string"
"""


class Service:
    """A command that is restarted whenever it ends, as by systemd; its output goes to a file."""

    def __init__(self, name: str, command: list[str], folder: Path, **environment: str) -> None:
        self.name, self.output = name, folder / f"{name}.log"
        self.starts = 0
        self._command, self._folder, self._environment = command, folder, {**os.environ, **environment}
        self._stop = threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with self.output.open("ab") as log:
            return subprocess.Popen(self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log,
                                    stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip

    def _keep(self) -> None:
        while not self._stop.is_set():
            self.process.wait()
            if not self._stop.wait(RESTART_SECONDS):
                self.process = self._start()

    def kill(self) -> None:
        """Kill it and everything it started."""
        children = self.children()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()

    def children(self, word: str = "") -> list[psutil.Process]:
        """Return its child processes that have *word* in their command line."""
        children = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if word in " ".join(child.cmdline()):
                        children.append(child)
        return children

    def log_text(self) -> str:
        return self.output.read_text("utf-8", errors="replace")

    def end(self) -> None:
        """Stop for good: ask first, kill after a while."""
        self._stop.set()
        children = self.children()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self._thread.join()


class System:
    """One game on the cluster profile over the servers of *stack*. Use as a context manager."""

    def __init__(self, stack: Stack, folder: Path, *, seed: int, rate: float = 200.0, master: str = "local[2]") -> None:
        self.stack, self.folder, self.seed, self.rate = stack, folder, seed, rate
        self.namespace = f"drill{os.getpid()}_{seed}"
        self.kafka = {"bootstrap.servers": stack.addresses.kafka}
        self._presto = PrestoServer(stack.addresses.presto, "iceberg", self.namespace)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.toml").write_text(PLAN)
        (folder / "drill_game.py").write_text((SUPPORT / "cluster" / "drill_game.py").read_text())
        self.settings(master)

    def settings(self, master: str) -> None:
        """Write the project's settings."""
        at = self.stack.addresses
        (folder := self.folder).mkdir(exist_ok=True)
        (folder / "questlog.toml").write_text(
            f'profile = "cluster"\ntopic = "{self.namespace}"\nnamespace = "{self.namespace}"\n'
            f'metastore = "{at.metastore}"\nwarehouse = "{at.warehouse}"\nspark_master = "{master}"\n'
            f'land_seconds = 1\n[kafka]\nbootstrap.servers = "{at.kafka}"\n[presto]\nurl = "{at.presto}"\n'
            f'[spark]\n"spark.jars" = "{",".join(jars("spark"))}"\n"spark.driver.memory" = "1g"\n'
            # a driver that is killed repeatedly never lives long enough to gain from the second compiler
            '"spark.driver.extraJavaOptions" = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"\n'
        )

    def __enter__(self) -> System:
        create_topic(self.kafka, self.namespace, partitions=4, replication=1, retention_hours=24)
        with contextlib.ExitStack() as ending:
            gunicorn = [sys.executable, "-m", "gunicorn", "drill_game:app", "--workers=2", "--threads=4",
                        "--keep-alive=5", "--no-control-socket", f"--bind=127.0.0.1:{self.port}"]  # fmt: skip
            self.game = self._service(ending, "game", gunicorn)
            self.forwarder = self._service(ending, "forwarder", self.questlog("up", "--only", "forwarder"))
            self.lander = self._service(ending, "lander", self.questlog("up", "--only", "lander"))
            until(lambda: "landing" in self.lander.log_text(), "the lander runs", RECOVERY_SECONDS)
            self.players = ending.enter_context(Players(self.port, rate=self.rate, seed=self.seed))
            self.began = time.time()
            self.await_exact(self.began, "the first landing")
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def _service(self, ending: contextlib.ExitStack, name: str, command: list[str], **environment: str) -> Service:
        service = Service(name, command, self.folder, **environment)
        ending.callback(service.end)
        return service

    def questlog(self, *words: str) -> list[str]:
        """Return a command line of questlog for this project."""
        return [sys.executable, "-m", "questlog", "-C", str(self.folder), *words]

    @contextlib.contextmanager
    def second_lander(self) -> Iterator[Service]:
        """Run another lander as if on another machine: it does not see the first one's lock."""
        with contextlib.ExitStack() as ending:
            yield self._service(
                ending, "second", self.questlog("up", "--only", "lander"), QUESTLOG_DATA=str(self.folder / "second")
            )

    # -- the stack's servers -----------------------------------------------------------------------

    def pid(self, server: str) -> int:
        """Return the process id of a server, once it is running."""
        file = self.stack.folder / "run" / f"{server}.json"
        until(lambda: recall(file) is not None, f"{server} runs")
        process = recall(file)
        assert process is not None
        return process.pid

    def kill_server(self, server: str) -> None:
        os.kill(self.pid(server), signal.SIGKILL)

    def await_servers(self) -> None:
        """Return once the stack's supervisor has restarted every server."""
        states = lambda: read_states(self.stack.folder / "run").values()  # noqa: E731
        until(
            lambda: all(s.state == "healthy" and s.pid == self.pid(s.name) for s in states()), "all servers work", 240
        )

    def locks(self) -> list[Any]:
        """Return the Metastore's locks on this game's tables."""
        with metastore(self.stack) as (client, request):
            names = (self.namespace, f"{self.namespace}_state")
            return [lock for lock in client.show_locks(request).locks if lock.dbname in names]

    def await_commit(self) -> None:
        """Return while a commit holds its lock."""
        deadline = time.monotonic() + 60
        names = (self.namespace, f"{self.namespace}_state")
        with metastore(self.stack) as (client, request):
            while not any(lock.dbname in names for lock in client.show_locks(request).locks):
                assert time.monotonic() < deadline, "no commit within 60 s"

    def limit_space(self, megabytes: float | None) -> None:
        """Limit the game's tables in HDFS with a space quota on the warehouse."""
        quota = -1 if megabytes is None else int(megabytes * 2**20)
        path = self.stack.addresses.warehouse.removeprefix(self.stack.addresses.hdfs)
        self._hdfs("PUT", f"{path}?op=SETQUOTA&namespacequota=9223372036854775807&storagespacequota={quota}")

    def used_space(self) -> float:
        """Return the size of the warehouse in HDFS, in megabytes."""
        path = self.stack.addresses.warehouse.removeprefix(self.stack.addresses.hdfs)
        summary = json.loads(self._hdfs("GET", f"{path}?op=GETCONTENTSUMMARY"))
        return float(summary["ContentSummary"]["spaceConsumed"]) / 2**20

    def _hdfs(self, method: str, query: str) -> bytes:
        port = self.stack.layout.ports["namenode_http"]
        user = psutil.Process().username()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/webhdfs/v1{query}&user.name={user}", method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return bytes(answer.read())

    # -- counts from Presto ------------------------------------------------------------------------

    def rows(self, since: float = 0.0) -> Counter[str]:
        """Return how often Presto finds each event received since then, in the tables and in quarantine."""
        moment = dt.datetime.fromtimestamp(since, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
        tables = ("sword_purchases", "join_guild", "quarantine")
        parts = [f"select event_id from {name} where received_time >= timestamp '{moment}'" for name in tables]
        counts = run(self._presto, " union all ".join(parts), 120)
        return Counter(row[0] for row in counts.rows)

    def await_exact(self, since: float, what: str, seconds: float = RECOVERY_SECONDS) -> float:
        """Wait until Presto counts every event acknowledged *since* exactly once; return after how many seconds."""
        expected, begun = self.players.acknowledged(since), time.monotonic()
        if not expected:
            until(lambda: bool(self.players.acknowledged(since)), "the game answers", seconds)
            expected = self.players.acknowledged(since)
        missing = expected
        while missing:
            assert time.monotonic() - begun < seconds, (
                f"{what}: {len(missing)} of {len(expected)} acknowledged events are missing after {seconds:g} s, for"
                f" example {sorted(missing)[:3]}\n{self.explain()}"
            )
            try:
                rows = self.rows(since - 60)
            except QuestlogError:
                rows = Counter()
            missing = expected - rows.keys()
            time.sleep(1)  # each count takes Presto a while
        doubled = {event_id: count for event_id, count in rows.items() if count > 1}
        assert doubled == {}, f"{what}: doubled\n{self.explain()}"
        return time.monotonic() - begun

    def explain(self) -> str:
        """Return the end of the services' output."""
        services: Mapping[str, Service] = {s.name: s for s in (self.game, self.forwarder, self.lander)}
        return "\n".join(f"-- {name}, started {s.starts} times\n{s.log_text()[-2500:]}" for name, s in services.items())


@contextlib.contextmanager
def metastore(stack: Stack) -> Iterator[tuple[Any, Any]]:
    """Yield a client of the Metastore, and a request for all locks."""
    from hive_metastore.ThriftHiveMetastore import Client
    from hive_metastore.ttypes import ShowLocksRequest
    from thrift.protocol import TBinaryProtocol
    from thrift.transport import TSocket, TTransport

    host, port = stack.addresses.metastore.removeprefix("thrift://").split(":")
    connection = TSocket.TSocket(host, int(port))
    connection.setTimeout(20_000)
    transport = TTransport.TBufferedTransport(connection)
    transport.open()
    try:
        yield Client(TBinaryProtocol.TBinaryProtocol(transport)), ShowLocksRequest()
    finally:
        transport.close()


Fault = Callable[[System, Any], None]
