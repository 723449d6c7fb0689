"""A game's project on the cluster profile, and its commands as users type them."""

from __future__ import annotations

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
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from questlog.log.kafka.spool import Spool, read_forwarding
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.record import encode_record
from questlog.settings import find_project
from questlog.stack import Stack
from support.cluster.spark_options import SPARK_LINES
from support.paths import SWORDS
from support.waiting import until


class Project:
    """The swords game in *folder*, with a topic and a schema that are unique on the stack."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder, self.stack, self.name = folder, stack, f"swords_{uuid.uuid4().hex[:8]}"
        self.topic, self.sent = f"events_{self.name}", list[str]()
        for name in ("game.py", "plan.toml"):
            shutil.copy(SWORDS / name, folder / name)
        self.configure()

    def configure(self, **other: str) -> None:
        """Write questlog.toml; *other* replaces servers of the stack, or adds lines."""
        at = self.stack.addresses
        values = {"kafka": at.kafka, "metastore": at.metastore, "warehouse": at.warehouse, "presto": at.presto}
        values |= {"lines": "", "spark": "", **other}
        (self.folder / "questlog.toml").write_text(
            f'profile = "cluster"\ntopic = "{self.topic}"\nnamespace = "{self.name}"\n'
            f'metastore = "{values["metastore"]}"\nwarehouse = "{values["warehouse"]}"\nspark_master = "local[2]"\n'
            f"topic_partitions = 2\nland_seconds = 0.5\n{values['lines']}\n"
            f'[kafka]\nbootstrap.servers = "{values["kafka"]}"\n'
            f'[spark]\n{SPARK_LINES}\n{values["spark"]}\n[presto]\nurl = "{values["presto"]}"\n'
        )

    def run(self, *words: str, seconds: float = 600, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `questlog …` in the project to its end."""
        command = [sys.executable, "-m", "questlog", "-C", str(self.folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment())
        assert code is None or done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def exec(self, *words: str) -> str:
        """Run `questlog stack exec …` in the project and return what it printed."""
        return self.run("stack", "--dir", str(self.stack.folder), "exec", *words).stdout

    def record(self, *bodies: bytes) -> None:
        """Log events and forward them to the topic."""
        with open_pipeline(self.folder) as pipeline:
            assert isinstance(pipeline, ClusterPipeline)
            first = len(self.sent)
            self.sent += [f"e{first + number}" for number in range(len(bodies))]
            now = time.time_ns() // 1_000_000
            records = zip(self.sent[first:], bodies, strict=True)
            pipeline.log.append([encode_record(body, id=id, received_ms=now) for id, body in records])
            with Spool(pipeline.project.data, pipeline.project.log_folder) as spool:
                pipeline.forwarder(spool).drain(threading.Event())
            pipeline.log.close()

    def sql(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows that `questlog sql` prints."""
        rows: list[dict[str, Any]] = json.loads(self.run("sql", "--json", statement).stdout)
        return rows

    def presto(self, statement: str) -> list[dict[str, Any]]:
        """Return the rows that Presto's own command line prints."""
        answer = self.exec("presto", "--output-format", "JSON", "--execute", statement)
        return [json.loads(line) for line in answer.splitlines()]

    def status(self) -> dict[str, Any]:
        """Return the report of `questlog status`, even if a component is blocked."""
        report: dict[str, Any] = json.loads(self.run("status", "--json", code=None, seconds=120).stdout)
        return report

    def landed(self) -> int:
        """Return how many events of this machine's log are known to have landed."""
        project = find_project(self.folder)
        return sum(read_forwarding(project.data, project.log_folder).landed.values())

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run `questlog …` in the background; end it as Ctrl-C does, and check its exit code."""
        command = [sys.executable, "-m", "questlog", "-C", str(self.folder), *words]
        with beside(command, self.folder, environment()) as process:
            yield process
            process.send_signal(signal.SIGINT)
            assert process.wait(90) == 0, (self.folder / "beside.log").read_text()[-3000:]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("QUESTLOG_")}


@contextmanager
def beside(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in *folder*, in the background; at the end, kill it and everything it started."""
    with (folder / "beside.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def serving(folder: Path, app: str, **more: str) -> Iterator[int]:
    """Run a Flask app in its development server; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "flask", "--app", app, "run", "--port", str(port)]
    with beside(command, folder, {**environment(), **more}) as process:
        until(lambda: answers(port), "the game answers", alive=lambda: process.poll() is None)
        yield port


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def get(port: int, path: str, host: str = "localhost") -> tuple[int, str]:
    """Return status and text of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host, "User-Agent": "ours/1.0", "Accept": "*/*"})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def bench(port: int, path: str, host: str, count: int) -> None:
    """Send *count* requests with ApacheBench, or with our own client where that is not installed."""
    ab = shutil.which("ab")
    if ab is not None:
        command = [ab, "-q", "-n", str(count), "-H", f"Host: {host}", f"http://127.0.0.1:{port}{path}"]
        sent = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert f"Complete requests:      {count}\nFailed requests:        0\n" in sent
        return
    for _ in range(count):
        assert get(port, path, host)[0] == 200
