"""The two pipelines that `cluster.py` compares on one stack: the one that tutorials build, and ours."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from confluent_kafka import Producer

from questlog.log.kafka.spool import Spool
from questlog.log.kafka.topic import create_topic
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.query.presto.client import PrestoError, PrestoServer, run
from questlog.record import encode_record, new_id
from questlog.stack import Stack
from questlog.stack.tools import build

HERE = Path(__file__).parent
TABLES = ("sword_purchases", "join_guild")
EVENTS = ("purchase_sword", "join_guild", "join_guild")


@dataclass
class Process:
    """A program and its child processes. Its CPU time includes ended children, up to their last sample."""

    argv: Sequence[str]
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._used: dict[tuple[int, float], float] = {}
        log = (self.cwd / "processes.log").open("ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")} | self.environment
        self.popen = subprocess.Popen(
            self.argv, cwd=self.cwd, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        log.close()

    def sample(self) -> float:
        """Return the memory of all running processes in MB (PSS), and record their CPU time."""
        memory = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.popen.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_full_info().pss / 2**20
        return memory

    @property
    def cpu_seconds(self) -> float:
        return sum(self._used.values())

    def wait(self, seconds: float) -> None:
        """Wait for the end, and keep sampling."""
        deadline = time.monotonic() + seconds
        while self.popen.poll() is None:
            if time.monotonic() > deadline:
                self.stop()
                raise SystemExit(f"{self.argv} did not exit within {seconds} s; see {self.cwd}/processes.log")
            self.sample()
            time.sleep(0.2)
        if self.popen.returncode:
            raise SystemExit(f"{self.argv} exited with {self.popen.returncode}; see {self.cwd}/processes.log")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(25)
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {seconds} s for {what}")
        time.sleep(0.1)


class Side:
    """One pipeline with its own topic and tables."""

    name, catalog, agent = "", "", ""
    close = False

    def __init__(self, stack: Stack, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stack, self.folder, self.topic = stack, folder, f"{self.name}_{int(time.time() * 1000)}"
        self.kafka, self.port = {"bootstrap.servers": stack.addresses.kafka}, free_port()
        self.server = PrestoServer(stack.addresses.presto, self.catalog, self.topic)
        create_topic(self.kafka, self.topic, partitions=4, replication=1, retention_hours=1)
        self.prepare()

    def prepare(self) -> None:
        """Create what must exist before the first event."""

    def app(self) -> list[Process]:
        raise NotImplementedError

    def stream(self) -> Process:
        raise NotImplementedError

    def land_all(self) -> Process:
        raise NotImplementedError

    def fill(self, count: int) -> None:
        """Write events to the topic as this side's game does: one third swords, two thirds guilds."""
        raise NotImplementedError

    def count(self, table: str) -> int:
        """Return the number of rows by Presto's count; raises `PrestoError` if the query fails."""
        rows = run(self.server, f"select count(*) from {table}", 60).rows
        return int(rows[0][0])

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/nowhere")
            return connection.getresponse().status == 404
        except OSError:
            return False
        finally:
            connection.close()

    @contextlib.contextmanager
    def running(self, *processes: Process) -> Iterator[None]:
        try:
            yield
        finally:
            for process in processes:
                process.stop()


class Tutorial(Side):
    """Flask's development server, kafka-python, Spark with a Python filter per type, Parquet, Hive tables, Presto."""

    name, catalog, agent = "tutorial", "hive", '"user-agent"'
    close = True  # its server answers one request per connection

    def prepare(self) -> None:
        self.location = f"{self.stack.addresses.hdfs}/bench/{self.topic}"
        run(self.server, f"create schema {self.topic} with (location = '{self.location}')", 60)
        for table in TABLES:  # each in the folder of its name, to which the stream writes
            columns = 'raw_event varchar, "timestamp" varchar, accept varchar, host varchar, "user-agent" varchar'
            run(self.server, f"create table {table} ({columns}, event_type varchar) with (format = 'PARQUET')", 60)

    def _environment(self) -> dict[str, str]:
        return {"KAFKA": self.kafka["bootstrap.servers"], "TOPIC": self.topic, "FOLDER": self.location}

    def app(self) -> list[Process]:
        words = [sys.executable, "-m", "flask", "--app", "game", "run", "--port", str(self.port)]
        shutil.copy(HERE / "tutorial" / "game.py", self.folder)
        return [Process(words, self.folder, self._environment())]

    def fill(self, count: int) -> None:
        producer = Producer({**self.kafka, "enable.idempotence": True, "linger.ms": 20})
        for number in range(count):
            event = {
                "event_type": EVENTS[number % 3], "Host": "user1.comcast.com", "Accept": "*/*",
                "User-Agent": f"player-{number}",
            }  # fmt: skip
            producer.produce(self.topic, json.dumps(event).encode())
            if number % 10_000 == 0:
                producer.flush()
        if producer.flush(60):
            raise SystemExit("the broker did not accept all events")

    def _submit(self, *arguments: str) -> Process:
        words = ["--master", "local[2]", "--driver-memory", "1g", str(HERE / "tutorial" / "stream.py"), *arguments]
        argv, environment = build(self.stack.layout, "spark-submit", words, "default")
        return Process(argv, self.folder, {**environment, **self._environment()})

    def stream(self) -> Process:
        return self._submit()

    def land_all(self) -> Process:
        return self._submit("--once")


class Ours(Side):
    """The swords game with its two questlog lines on Granian, the spool, `questlog up`, Iceberg, Presto."""

    name, catalog, agent = "questlog", "iceberg", "user_agent"

    def prepare(self) -> None:
        at = self.stack.addresses
        for file in ("game.py", "plan.toml"):
            shutil.copy(HERE.parent / "examples" / "swords" / file, self.folder)
        settings = {
            "profile": "cluster", "topic": self.topic, "namespace": self.topic, "metastore": at.metastore,
            "warehouse": at.warehouse, "spark_master": "local[2]", "land_seconds": 1.0,
        }  # fmt: skip
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["[kafka]", f'"bootstrap.servers" = "{at.kafka}"', "[presto]", f'url = "{at.presto}"']
        lines += ["[spark]", '"spark.driver.memory" = "1g"']
        (self.folder / "questlog.toml").write_text("\n".join(lines))

    def _questlog(self, *words: str) -> Process:
        return Process([sys.executable, "-m", "questlog", *words], self.folder)

    def app(self) -> list[Process]:
        words = ["-m", "granian", "--interface=wsgi", "--host=127.0.0.1", f"--port={self.port}", "--workers=2"]
        words += ["--no-ws", "--blocking-threads=64", "game:app"]
        return [Process([sys.executable, *words], self.folder), self._questlog("up", "--only", "forwarder")]

    def fill(self, count: int) -> None:
        pipeline = open_pipeline(self.folder)
        assert isinstance(pipeline, ClusterPipeline)
        for first in range(0, count, 1000):
            records = [
                encode_record(
                    b'{"event_type": "%s"}' % EVENTS[number % 3].encode(), id=new_id(), is_json=True,
                    received_ms=time.time_ns() // 1_000_000,
                    headers={"Host": "user1.comcast.com", "Accept": "*/*", "User-Agent": f"player-{number}"},
                )
                for number in range(first, min(first + 1000, count))
            ]  # fmt: skip
            pipeline.log.append(records)
        with Spool(pipeline.project.data, pipeline.project.log_folder) as spool:
            pipeline.forwarder(spool).drain(threading.Event())
        pipeline.log.close()

    def stream(self) -> Process:
        return self._questlog("up", "--only", "lander")

    def land_all(self) -> Process:
        return self._questlog("land")


SIDES: tuple[type[Side], ...] = (Tutorial, Ours)
__all__ = ["SIDES", "TABLES", "Ours", "PrestoError", "Process", "Side", "Tutorial", "wait_for"]
