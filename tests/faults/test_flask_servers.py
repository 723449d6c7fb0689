"""Every kind of server is stopped under load, as people stop servers: every answered event is in SQL once."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import questlog
from support.game_processes import assert_promise
from support.paths import SWORDS
from support.ports import free_port
from support.waiting import until

LIMIT_SECONDS = 5
"""When they are stopped under load, Gunicorn with threads and Granian sometimes keep serving, even a bare app. After
this time they kill their workers."""
GUNICORN = [
    "gunicorn", "game:app", "--no-control-socket", "--bind=127.0.0.1:{port}", f"--graceful-timeout={LIMIT_SECONDS}",
]  # fmt: skip
SERVERS = {
    "flask, threads": ["flask", "--app", "game", "run", "--port", "{port}"],
    "flask, reloader": ["flask", "--app", "game", "run", "--debug", "--port", "{port}"],
    "gunicorn, two sync workers": [*GUNICORN, "--workers=2"],
    "gunicorn, threads": [*GUNICORN, "--workers=2", "--threads=4"],
    "gunicorn, preload": [*GUNICORN, "--workers=2", "--threads=4", "--preload"],
    "gunicorn, preload after an event": [*GUNICORN, "--workers=2", "--threads=4", "--preload"],
    "granian": ["granian", "--interface", "wsgi", "--host", "127.0.0.1", "--port", "{port}", "--workers", "2",
                "--blocking-threads", "4", "--workers-kill-timeout", str(LIMIT_SECONDS), "game:app"],
}  # fmt: skip
OPENED = """
from questlog.flask import track
with app.app_context():
    track("join_guild")  # opens the log in the process that will be forked
"""
LOG_LINE = re.compile(r"^\[\d{4}-.*\n", re.M)
"""A line of gunicorn's log; a line of another worker can be in the middle of a traceback."""
TRACEBACK = re.compile(
    r"^Traceback \(most recent call last\):\n(?P<frames>(?:[ \t].*\n|\n)*)(?P<error>[A-Za-z_][\w.]*(?:: .*)?\n)?", re.M
)
PACKAGE = str(Path(questlog.__file__).parent)


class Server:
    """A game server in its own process group."""

    def __init__(self, folder: Path, kind: str, ack: str) -> None:
        self.folder, self.port = folder, free_port()
        shutil.copy(SWORDS / "plan.toml", folder)
        game = (SWORDS / "game.py").read_text().replace("Questlog(app)", f'Questlog(app, ack="{ack}")')
        (folder / "game.py").write_text(game + (OPENED if "after an event" in kind else ""))
        program, *arguments = [part.format(port=self.port) for part in SERVERS[kind]]
        self.output = folder / "server.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *arguments], cwd=folder, stdout=output, stderr=output,
                start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        until(self.answers, f"{kind} answers")
        if kind == "granian":  # a worker that is stopped before it has started never stops
            until(lambda: self.output.read_text().count("Started worker") == 2, "both workers are running")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/nowhere")
            return connection.getresponse().status == 404
        except OSError:
            return False
        finally:
            connection.close()

    def members(self) -> list[int]:
        """Return the processes of the group, including zombies."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rsplit(")", 1)[1].split()[2]) == self.process.pid:
                    found.append(int(stat.parent.name))
        return found

    def stop(self, how: str) -> bool:
        """Stop it as a terminal does (SIGINT to the whole group) or as a service manager does (SIGTERM to the parent).

        Return whether the stop took so long that workers were killed.
        """
        stopped = time.monotonic()
        if how == "SIGINT":
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.terminate()
        code = self.process.wait(60)
        killed = time.monotonic() - stopped >= LIMIT_SECONDS
        assert errors(self.output.read_text()) == [], self.output.read_text()
        assert code in (0, 1, -signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM), code
        until(lambda: not self.members(), "all processes have ended")
        return killed


def errors(output: str) -> list[str]:
    """Return the last line of every traceback that goes through questlog.

    Servers that are stopped under load show some of their own. Gunicorn's quick stop (SIGINT) raises SystemExit
    wherever a request is, and a process that is killed while it writes a traceback leaves one without a last line.
    """
    tracebacks = list(TRACEBACK.finditer(LOG_LINE.sub("", output)))
    last_lines = [(found["error"] or "").strip() for found in tracebacks if PACKAGE in found["frames"]]
    return [line for line in last_lines if line not in ("", "SystemExit: 0")]


def test_the_search_for_errors_finds_those_of_questlog() -> None:
    """A test of the test."""
    frame = f'Traceback (most recent call last):\n  File "{PACKAGE}/x.py", line 3, in buy\n    1 / 0\n'
    log = "[2026-01-01 00:00:00 +0000] [7] [INFO] Worker exiting (pid: 7)\n"
    assert errors(f"{log}{frame}{log}ZeroDivisionError: division by zero\n{log}") == [
        "ZeroDivisionError: division by zero"
    ]
    assert errors(f"{frame}SystemExit: 0\n{frame}") == []
    assert errors(f"{frame}{frame}ValueError\n") == ["ValueError"]
    assert errors(f"{frame}ValueError\n".replace(PACKAGE, "elsewhere")) == []


class Load:
    """Threads that buy swords until `stop` is called."""

    def __init__(self, port: int, threads: int = 8) -> None:
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port, n), daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int, name: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            mark = f"{name}-{number}"
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            self.sent.add(mark)
            try:
                connection.request("GET", "/purchase_a_sword", headers={"User-Agent": mark})
                response = connection.getresponse()
                response.read()
                if response.status == 200:
                    self.acknowledged.add(mark)
            except (OSError, http.client.HTTPException):
                self._stop.wait(0.01)
            finally:
                connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    started: list[Server] = []
    yield started
    for server in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def marks(folder: Path) -> dict[str, int]:
    return dict(questlog.open(str(folder)).sql("select user_agent, count(*) from sword_purchases group by 1").rows())


@pytest.mark.parametrize("ack", ["durable", "background"])
@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_stop_under_load_loses_nothing(tmp_path: Path, servers: list[Server], kind: str, how: str, ack: str) -> None:
    """This holds for `ack="background"` too, because its queue is flushed; a SIGKILL loses it, as documented."""
    if (kind, ack) == ("flask, reloader", "background"):
        pytest.skip("werkzeug's reloader kills its child with SIGKILL, at once or after 0.25 s")
    server = Server(tmp_path, kind, ack)
    servers.append(server)
    load = Load(server.port)
    until(lambda: len(load.acknowledged) > 100, "events are accepted", 60)
    killed = server.stop(how)
    load.stop()
    promised = set() if killed and ack == "background" else load.acknowledged
    assert_promise(marks(tmp_path), promised, load.sent, f"{kind} after {how}")
    if "after an event" in kind:
        guilds = questlog.open(str(tmp_path)).sql("select count(*) from join_guild").rows()
        assert guilds == [(1,)], "the event recorded before the fork is there once"


def test_a_reload_loses_nothing(tmp_path: Path, servers: list[Server]) -> None:
    server = Server(tmp_path, "flask, reloader", "durable")
    servers.append(server)
    load = Load(server.port, threads=4)
    for _ in range(2):
        before = len(load.acknowledged)
        until(lambda before=before: len(load.acknowledged) > before + 50, "events are accepted", 60)
        reloads = server.output.read_text().count("Restarting with")
        (tmp_path / "game.py").write_text((tmp_path / "game.py").read_text() + "\n# changed\n")
        until(lambda n=reloads: server.output.read_text().count("Restarting with") > n, "the server reloads")
    load.stop()
    assert_promise(marks(tmp_path), load.acknowledged, load.sent, "after two reloads")
