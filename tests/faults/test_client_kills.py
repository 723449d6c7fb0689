"""Client or collector is killed, frozen or out of disk: every tracked event is in SQL exactly once."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import questlog
from support.game_processes import assert_promise
from support.ports import free_port
from support.waiting import until

KEY = "some-key"
KILLS = int(os.environ.get("QUESTLOG_DRILL", "30"))
PLAN = '[events.step]\n[events.step.fields]\nmark = { type = "string", required = true }\n'
PROGRAM = """
import sys, time, questlog
from questlog.client import sender
sender.LONGEST_WAIT = 0.2
url, key, queue, name, most = sys.argv[1:]
client = questlog.Client(url, key, queue=queue, flush_seconds=0.01, timeout=0.5)
for number in range(1, int(most) + 1):
    print(f"? {name}-{number}", flush=True)
    client.track("step", mark=f"{name}-{number}")
    print(f"! {name}-{number}", flush=True)
time.sleep(600)  # the test ends it
"""
"""Prints each event before it tracks it (?) and after (!)."""


class Programs:
    """The processes of one test, each with its output in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.started = folder, free_port(), 0
        self.running: list[subprocess.Popen[bytes]] = []
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *argv: str, **environment: str) -> subprocess.Popen[bytes]:
        self.started += 1
        name = self.folder / str(self.started)
        with name.with_suffix(".out").open("wb") as output, name.with_suffix(".err").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, *argv], stdout=output, stderr=errors, cwd=self.folder,
                env=self.environment | environment, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def collector(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start `questlog collect` in its own process group, so that a signal reaches its worker too."""
        options = ["-C", str(self.folder), "collect", "--port", str(self.port)]
        return self.start("-m", "questlog", *options, **environment)

    def client(self, most: int = 1_000_000) -> subprocess.Popen[bytes]:
        queue = str(self.folder / "queue.db")
        return self.start("-c", PROGRAM, self.url, KEY, queue, f"p{self.started}", str(most))

    def marks(self, sign: str) -> set[str]:
        """Return the events that clients were about to track (?) or have tracked (!)."""
        lines = [line for file in self.folder.glob("*.out") for line in file.read_text(errors="replace").split("\n")]
        return {line[2:] for line in lines if line.startswith(sign + " ")}

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process and its children, and return when all are gone."""
        self.signal(process, signal.SIGKILL)
        process.wait()
        self.running.remove(process)
        until(lambda: not alive(process.pid), "its children have ended")

    def signal(self, process: subprocess.Popen[bytes], number: int) -> None:
        """Send a signal to a process and its children."""
        os.killpg(process.pid, number)

    def flush(self) -> dict[str, int]:
        """Send the rest of the queue from this process, and return the queue's counts."""
        with questlog.Client(self.url, KEY, queue=self.folder / "queue.db") as client:
            assert client.flush(120), client.trouble
            return client.counts()

    def answered(self) -> int:
        """Return how many events the clients have a receipt for."""
        with closing(sqlite3.connect(self.folder / "queue.db", timeout=20)) as connection:
            return int(connection.execute("select sum(events) from count").fetchone()[0])

    def refuses(self) -> bool:
        """Return whether the collector answers an event with 503 and Retry-After."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with closing(connection), contextlib.suppress(OSError):
            connection.request("POST", "/v1/events", b'{"event_type": "step", "mark": "refused"}')
            answer = connection.getresponse()
            return answer.status == 503 and bool(answer.headers["Retry-After"])
        return False

    def counts(self) -> dict[str, int]:
        return dict(questlog.open(self.folder).sql("select mark, count(*) from step group by mark").rows())


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    (tmp_path / "plan.toml").write_text(PLAN)
    programs = Programs(tmp_path)
    yield programs
    for process in list(programs.running):
        programs.kill(process)


def alive(group: int) -> bool:
    """Return whether any process of this group is running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def pass_time(seconds: float) -> None:
    """Let the current fault last for *seconds*."""
    threading.Event().wait(seconds)


def assert_kept(programs: Programs, seed: int) -> None:
    """Assert that every tracked event is in SQL once and that the queue is empty."""
    counts = programs.flush()
    tracked, about_to = programs.marks("!"), programs.marks("?")
    assert_promise(programs.counts(), tracked, about_to, f"seed {seed}")
    assert counts["waiting"] == counts["quarantined"] == counts["rejected"] == 0
    assert counts["accepted"] + counts["duplicate"] >= len(tracked)


def test_killing_clients_loses_and_duplicates_nothing(programs: Programs) -> None:
    """Two clients share a queue; the collector survives."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    programs.collector()
    clients = [programs.client(), programs.client()]
    for _ in range(KILLS):
        victim = chance.choice(clients)
        pass_time(chance.uniform(0.0, 0.6))
        programs.kill(victim)
        clients[clients.index(victim)] = programs.client()
    until(lambda: len(programs.marks("!")) > 100, "enough events are tracked")
    for client in clients:
        programs.kill(client)
    assert_kept(programs, seed)


def test_killing_freezing_and_filling_a_collector_loses_and_duplicates_nothing(programs: Programs) -> None:
    """Its answers are lost, late or 503; the clients keep tracking and retry."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    clients = [programs.client(), programs.client()]
    until(lambda: len({mark.split("-")[0] for mark in programs.marks("!")}) == 2, "both clients track")
    for number in range(max(6, KILLS // 5)):
        kind = number % 3
        full = {"QUESTLOG_MIN_FREE_MB": str(2**40), "QUESTLOG_RETRY_AFTER_SECONDS": "1"} if kind == 2 else {}
        collector = programs.collector(**full)
        before = programs.answered()
        if kind < 2:
            until(lambda n=before: programs.answered() > n, "events are answered", 60)
        else:
            until(programs.refuses, "the collector answers 503", 60)
            pass_time(0.5)
            assert programs.answered() == before
        if kind == 1:
            programs.signal(collector, signal.SIGSTOP)
            pass_time(chance.uniform(0.3, 1.2))  # clients time out after half a second
            programs.signal(collector, signal.SIGCONT)
            pass_time(chance.uniform(0.0, 0.3))  # it handles some of the requests that were sent meanwhile
        assert [client.poll() for client in clients] == [None, None], "the clients are not affected"
        programs.kill(collector)
    for client in clients:
        programs.kill(client)
    programs.collector()
    assert_kept(programs, seed)


def test_a_client_takes_over_from_one_that_was_frozen_and_killed_while_sending(programs: Programs) -> None:
    """Its turn to send ends with it, and the events it sent without an answer are recognized by their ids."""
    collector = programs.collector()
    first = programs.client(most=50)
    until(lambda: len(programs.counts()) == 50, "the first client sends", 30)
    programs.signal(collector, signal.SIGSTOP)
    with questlog.Client(programs.url, KEY, queue=programs.folder / "queue.db", timeout=0.1) as client:
        client.track("step", mark="between")  # either client may send it
        programs.signal(first, signal.SIGSTOP)
        second = programs.client(most=100)
        until(lambda: len(programs.marks("!")) == 150, "the second client tracks")
        client.shutdown(0)
    programs.signal(collector, signal.SIGCONT)
    programs.kill(first)
    until(lambda: len(programs.counts()) == 151, "the second client sends", 30)
    programs.kill(second)
    assert set(programs.counts().values()) == {1}
