"""Real game servers and landers to kill, clients that remember what was acknowledged, and the final check.

A client puts a unique mark into the `User-Agent` header of each request. The plan keeps that header
as a column, so a query can find exactly the events that were answered with 2xx.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.paths import SUPPORT, SWORDS, TESTS
from support.ports import free_port
from support.waiting import until

ROUTES = {"/": "default", "/purchase_a_sword": "sword_purchases", "/join_guild": "join_guild"}
FAST_LANDING = {"QUESTLOG_LAND_SECONDS": "0.05", "QUESTLOG_BATCH_RECORDS": "200"}


class Process:
    """A real process with its children, in one session, with its output in a file."""

    def __init__(self, fork_server: ForkServer, pid: int, output: Path) -> None:
        self.pid, self.output = pid, output
        self._fork_server = fork_server

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL it with its children; return whether it was still running."""
        running = self.wait(0) is None
        for _ in range(300):  # a process that was just forked may not have its own session yet
            self.signal(signal.SIGKILL)
            if self.wait(0.2) is not None:
                return running
        raise AssertionError("a process survived SIGKILL")

    def kill_child(self, chance: random.Random) -> bool:
        """SIGKILL one child, such as a worker; return whether there was one."""
        children = _children(self.pid)
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(chance.choice(children)), signal.SIGKILL)
                return True
        return False

    def freeze(self) -> None:
        """Stop it and its children, and return when none of their threads is running."""
        self.signal(signal.SIGSTOP)
        until(self.frozen, f"process {self.pid} stops")

    def frozen(self) -> bool:
        """Return whether every thread of the process and its children is stopped or gone."""
        processes = [str(self.pid), *_children(self.pid)]
        states = (_state(task) for process in processes for task in Path("/proc", process, "task").glob("*"))
        return all(state in "TtZX" for state in states)

    def wait(self, seconds: float) -> int | None:
        """Return the exit code, or None if it still runs after *seconds*."""
        deadline = time.monotonic() + seconds
        while True:
            code = self._fork_server.reap(self.pid)
            if code is not None or time.monotonic() >= deadline:
                return code
            time.sleep(0.002)  # only the fork server can wait for its children

    def said(self) -> str:
        """Return its standard output."""
        return self.output.read_text(errors="replace")

    def error_output(self) -> str:
        """Return the end of its standard error."""
        return Path(f"{self.output}.err").read_text(errors="replace")[-3000:]


class ForkServer:
    """Starts programs as children of `fork_server.py`; closing it kills those that still run."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # a thread pool would not survive the fork
        environment["PYTHONPATH"] = str(TESTS)
        self._lock = threading.Lock()
        self._started = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._read() == {"ready": True}

    def start(
        self,
        folder: Path,
        *argv: str,
        environment: Mapping[str, str] | None = None,
        mutations: Mapping[str, Any] | None = None,
    ) -> Process:
        """Start a program in *folder* in its own process."""
        self._started += 1
        output = folder / f"{argv[0]}-{self._started}.out"
        pid = self._ask(
            argv=argv, folder=str(folder), output=str(output), environment=dict(environment or {}),
            mutations=dict(mutations or {}),
        )["pid"]  # fmt: skip
        return Process(self, pid, output)

    def reap(self, pid: int) -> int | None:
        """Return the exit code of *pid*, or None while it runs."""
        code: int | None = self._ask(reap=pid)["code"]
        return code

    def close(self) -> None:
        """Kill every child, and end the fork server."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with self._lock:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"ended": true}')
        return answer


@dataclass
class Game:
    """A game in its own folder: its server, lander and queries.

    `swords` is the example game. In `shop`, clients choose event ids and retry until they get an answer.
    """

    fork_server: ForkServer
    root: Path
    app: str = "swords"
    environment: dict[str, str] = field(default_factory=lambda: dict(FAST_LANDING))
    port: int = field(default_factory=lambda: free_port())

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SWORDS / "plan.toml", self.root / "plan.toml")
        shutil.copyfile(SWORDS / "game.py" if self.app == "swords" else SUPPORT / "shop_game.py", self.root / "game.py")

    def serve(self, kind: str = "gunicorn", *, port: int | None = None, **mutations: Any) -> Process:
        """Start the game's server: `gunicorn` with two workers of four threads, or the `flask` development server."""
        port = port or self.port
        argv = ["flask", "--app", "game", "run", "--no-reload", "--port", str(port)]
        if kind == "gunicorn":
            argv = ["gunicorn", "game:app", "--workers=2", "--threads=4", "--keep-alive=5", "--no-control-socket",
                    f"--bind=127.0.0.1:{port}"]  # fmt: skip
        return self.fork_server.start(self.root, *argv, environment=self.environment, mutations=mutations)

    def land(self, command: str = "land", **mutations: Any) -> Process:
        """Start the lander: `land` ends by itself, `up` keeps running."""
        argv = ["questlog", "-C", str(self.root), command]
        return self.fork_server.start(self.root, *argv, environment=self.environment, mutations=mutations)

    def run(self, *arguments: str) -> str:
        """Run one `questlog` command to completion and return its output."""
        return self._finish("questlog", "-C", str(self.root), *arguments)

    def _finish(self, *argv: str) -> str:
        process = self.fork_server.start(self.root, *argv, environment=self.environment)
        code = process.wait(120)
        assert code == 0, f"{argv} -> {code}\n{process.error_output()}"
        return process.said()

    @property
    def mark(self) -> str:
        """The column that holds the client's mark."""
        return "user_agent" if self.app == "swords" else "event_id"

    def marks(self, reader: str = "sql") -> Counter[str]:
        """Return how many rows each mark has, read with our `sql` or with plain `iceberg`."""
        return Counter(json.loads(self._finish("answers", str(self.root), self.mark, reader)))

    def ledger(self) -> dict[str, int]:
        """Return the counts that must balance."""
        ledger: dict[str, int] = json.loads(self.run("status", "--json"))["ledger"]
        return ledger


class Clients:
    """Threads that send requests to a game and remember which were answered with 2xx."""

    def __init__(
        self, game: Game, *, seed: int, threads: int = 3, pause: float = 0.01, port: int | None = None
    ) -> None:
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.refusals: list[tuple[int, str | None]] = []
        self._game, self._port = game, port or game.port
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(f"{seed}-{self._port}-{n}", random.Random(seed + n)))
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sending, and return when no request is in flight."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request hangs"

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, name: str, chance: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        number, answered = 0, True
        while not self._stop.is_set():
            number += answered or self._game.app == "swords"  # only an event with a client's id may be retried
            mark = f"{name}-{number}"
            answered = self._send(connection, mark, chance)
            self._stop.wait(chance.uniform(0, 0.02))
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, mark: str, chance: random.Random) -> bool:
        """Send one event; return whether it was answered with 2xx."""
        path = chance.choice(list(ROUTES)) if self._game.app == "swords" else f"/buy/{mark}"
        self.sent.add(mark)
        try:
            connection.request("GET", path, headers={"User-Agent": mark})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        if 200 <= response.status < 300:
            self.acknowledged.add(mark)
            return True
        self.refusals.append((response.status, response.headers["Retry-After"]))
        return False


class Killer(threading.Thread):
    """Starts one program repeatedly and kills it, each time at another moment."""

    def __init__(self, start: Callable[[], Process], *, longest: float, seed: int) -> None:
        super().__init__()
        self.kills = 0
        self.longest = longest
        """The maximum lifetime of a process in seconds; twice that if a child dies first."""
        self.codes: Counter[int] = Counter()
        self._start_program, self._stop_killing = start, threading.Event()
        self._chance = random.Random(seed)
        self.start()

    def run(self) -> None:
        """Kill until stopped; one time in five a child dies first, and its parent must detect it."""
        while not self._stop_killing.is_set():
            process = self._start_program()
            process.wait(self._chance.uniform(0, self.longest))
            if self._chance.random() < 0.2 and process.kill_child(self._chance):
                self.kills += 1
                process.wait(self._chance.uniform(0, self.longest))
            self.kills += process.kill() or process.wait(0) == -signal.SIGKILL  # the latter killed itself at its step
            self.codes[process.wait(0) or 0] += 1

    def stop(self) -> None:
        """Stop after the current kill."""
        self._stop_killing.set()
        self.join()


def _children(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return []


def _state(task: Path) -> str:
    with contextlib.suppress(OSError):
        return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
    return "X"


def faults(known: Mapping[str, int], acknowledged: set[str], sent: set[str]) -> dict[str, list[str]]:
    """Return what breaks the promise: marks that are lost, duplicated, or were never sent."""
    found = {
        "lost": sorted(acknowledged - known.keys()),
        "doubled": sorted(mark for mark, count in known.items() if count > 1),
        "never sent": sorted(known.keys() - sent),
    }
    return {kind: marks for kind, marks in found.items() if marks}


def assert_promise(known: Mapping[str, int], acknowledged: set[str], sent: set[str], when: str) -> None:
    """Assert that every acknowledged event is counted once, every other one at most once, and no unknown event."""
    found = {kind: (len(marks), marks[:5]) for kind, marks in faults(known, acknowledged, sent).items()}
    assert not found, f"{when}, of {len(acknowledged)} acknowledged: {found}"


def assert_landed(game: Game, acknowledged: set[str], sent: set[str]) -> None:
    """Assert that plain PyIceberg finds the same rows as our SQL and that the ledger balances."""
    known = game.marks("iceberg")
    assert_promise(known, acknowledged, sent, "read by PyIceberg")
    assert known == game.marks()
    ledger = game.ledger()
    assert ledger["tail"] == 0
    assert ledger["accepted"] == sum(count for outcome, count in ledger.items() if outcome != "accepted")
    assert ledger["landed"] == len(known)
