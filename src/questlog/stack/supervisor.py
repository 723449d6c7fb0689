"""Keeps the servers running: starts each when what it needs is healthy, restarts what dies, stops them in order.

One supervisor per stack, held by a lock. It writes what it knows to `run/state.json`, which `status` reads.
A supervisor that was killed leaves its servers running; the next one takes them over.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from questlog.durable import FileLock, write_file
from questlog.errors import NotInstalled, QuestlogError
from questlog.stack.layout import StackLayout
from questlog.stack.processes import Identity, end, holder_of, recall, remember
from questlog.stack.servers import Server

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
STEADY_SECONDS = 60.0
START_SECONDS = 400.0
ATTEMPTS = 3
"""A server that ends so often before it ever worked will not start by trying again."""
Tell = Callable[[str], None]


@dataclass(slots=True)
class State:
    """What the supervisor knows of one server."""

    name: str
    state: str = "waiting"
    pid: int = 0
    restarts: int = 0
    seconds: float = 0.0
    """From its last start until it worked."""
    trouble: str = ""


class StackBusy(QuestlogError):
    """Another supervisor keeps this stack."""

    exit_code = 3


class Supervisor:
    """Runs *servers* in *layout* until told to stop."""

    def __init__(self, layout: StackLayout, servers: Sequence[Server], tell: Tell = lambda line: None) -> None:
        self._layout, self._servers, self._tell = layout, servers, tell
        self.states = {server.name: State(server.name) for server in servers}
        self._stop, self._failed = threading.Event(), ""
        self._lock = threading.Lock()

    def run(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Keep the servers until `stop`, or while *wanted*; raise if one cannot start at all."""
        layout = self._layout
        layout.run.mkdir(parents=True, exist_ok=True)
        with _alone(layout):
            self._refuse_conflicts()
            layout.write_configuration()
            remember(layout.run / "supervisor.json", os.getpid())
            threads = [threading.Thread(target=self._keep, args=(s,), name=f"keep-{s.name}") for s in self._servers]
            for thread in threads:
                thread.start()
            try:
                while not self._stop.wait(0.2):
                    if not wanted():
                        self.stop()
            finally:
                self.stop()
                for thread in threads:
                    thread.join()
                self._end_all()
                (layout.run / "supervisor.json").unlink(missing_ok=True)
        if self._failed:
            raise QuestlogError(self._failed, hint="questlog stack logs SERVER shows all of what it said")

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stop.set()

    def ready(self) -> bool:
        """Return whether every server works."""
        return all(state.state == "healthy" for state in self.states.values())

    def _refuse_conflicts(self) -> None:
        """Name each port that somebody else holds, before anything starts."""
        faults = []
        for server in self._servers:
            if recall(self._pid_file(server)) is not None:
                continue
            for name in server.ports:
                port = self._layout.ports[name]
                if _is_held(port):
                    holder = holder_of(port) or "another process"
                    faults.append(f"port {port} ({name}) is held by {holder}")
        if faults:
            raise QuestlogError("; ".join(faults), hint='stack_ports = "NAME=NUMBER …" moves one, "free" moves all')

    def _pid_file(self, server: Server) -> Path:
        return self._layout.run / f"{server.name}.json"

    def _keep(self, server: Server) -> None:
        """Keep one server until told to stop.  1 prepare  2 wait for its needs  3 start  4 watch; again from 3."""
        try:
            identity = recall(self._pid_file(server))
            if identity is None:
                self._prepare(server)
            self._wait_for_needs(server)
            pause, attempts, worked = FIRST_PAUSE, 0, False
            while not self._stop.is_set():
                started = time.monotonic()
                process = None
                if identity is None:
                    identity, process = self._start(server)
                healthy = self._await_health(server, identity, process, started)
                worked = worked or healthy
                self._watch(identity, process)
                if self._stop.is_set():
                    return
                attempts += 1
                if not worked and attempts >= ATTEMPTS:
                    raise QuestlogError(f"ended {attempts} times before it worked{_last_words(self._log(server))}")
                pause = FIRST_PAUSE if time.monotonic() - started > STEADY_SECONDS else min(2 * pause, LONGEST_PAUSE)
                self._note(server, "restarting", restarts=self.states[server.name].restarts + 1)
                self._tell(f"{server.name} ended; it starts again in {pause:.1f} s")
                identity = None
                self._stop.wait(pause)
        except (QuestlogError, OSError) as error:
            self._note(server, "failed", trouble=str(error))
            self._failed = self._failed or f"{server.title} cannot start: {error}"
            self.stop()

    def _prepare(self, server: Server) -> None:
        """Make what the server finds at its start: once, and anew if making it was interrupted."""
        for name, command in server.prepare.items():
            folder = self._layout.data / name
            done = folder.with_suffix(".prepared")
            if done.exists():
                continue
            self._note(server, "preparing")
            shutil.rmtree(folder, ignore_errors=True)
            with self._log(server).open("ab") as log:
                ran = subprocess.Popen(command(self._layout), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                       cwd=self._layout.logs, env={**os.environ, **server.environment(self._layout)},
                                       start_new_session=True)  # fmt: skip
                while ran.poll() is None:
                    if self._stop.wait(0.05):
                        ran.kill()
                        ran.wait()
            if self._stop.is_set():
                return
            if ran.returncode:
                raise QuestlogError(f"preparing it failed{_last_words(self._log(server))}")
            done.touch()

    def _wait_for_needs(self, server: Server) -> None:
        names = [name for name in server.needs if name in self.states]
        while any(self.states[name].state != "healthy" for name in names) and not self._stop.wait(0.1):
            pass

    def _start(self, server: Server) -> tuple[Identity, subprocess.Popen[bytes]]:
        """Start the process in a session of its own: Ctrl-C is for the supervisor, who stops in order."""
        with self._log(server).open("ab") as log:
            process = subprocess.Popen(
                server.command(self._layout), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                cwd=self._layout.logs, env={**os.environ, **server.environment(self._layout)}, start_new_session=True,
            )  # fmt: skip
        identity = remember(self._pid_file(server), process.pid)
        self._note(server, "starting", pid=process.pid)
        return identity, process

    def _await_health(
        self, server: Server, identity: Identity, process: subprocess.Popen[bytes] | None, started: float
    ) -> bool:
        """Ask until it works, it ends, or too long; a server that only is slow is left to itself."""
        self._note(server, "starting", pid=identity.pid)
        while not self._stop.wait(0.15):
            if not _lives(identity, process):
                return False
            try:
                did = server.check(self._layout)
            except NotInstalled:
                raise
            except Exception as error:  # whatever a client meets at a server that only begins
                self._note(server, "starting", trouble=str(error))
                if time.monotonic() - started > START_SECONDS:
                    raise QuestlogError(f"it does not work after {START_SECONDS:g} s: {error}") from error
                continue
            seconds = time.monotonic() - started
            self._note(server, "healthy", seconds=round(seconds, 1))
            self._tell(f"{server.name:<10} healthy after {seconds:4.1f} s: {did}")
            return True
        return False

    def _watch(self, identity: Identity, process: subprocess.Popen[bytes] | None) -> None:
        while _lives(identity, process) and not self._stop.wait(0.2):
            pass

    def _end_all(self) -> None:
        """End the servers, those that others need last."""
        for server in reversed(self._servers):
            identity = recall(self._pid_file(server))
            if identity is not None:
                self._note(server, "stopping")
                if not end(identity, server.stop_seconds):
                    self._tell(f"{server.name} did not end by itself and was killed")
            self._pid_file(server).unlink(missing_ok=True)
            if self.states[server.name].state != "failed":
                self._note(server, "stopped", pid=0)

    def _note(self, server: Server, state: str, **known: object) -> None:
        """Write down what is known, for `status` and whoever waits."""
        with self._lock:
            mine = self.states[server.name]
            mine.state, mine.trouble = state, ""
            for name, value in known.items():
                setattr(mine, name, value)
            states = json.dumps([asdict(each) for each in self.states.values()])
            write_file(self._layout.run / "state.json", states)

    def _log(self, server: Server) -> Path:
        return self._layout.logs / f"{server.name}.log"


def _lives(identity: Identity, process: subprocess.Popen[bytes] | None) -> bool:
    return process.poll() is None if process is not None else identity.alive()


def read_states(run: Path) -> dict[str, State]:
    """Return what the supervisor last wrote."""
    try:
        return {each["name"]: State(**each) for each in json.loads((run / "state.json").read_text("utf-8"))}
    except (OSError, ValueError):
        return {}


def _is_held(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _last_words(log: Path) -> str:
    """Return the lines of a log that say why, as part of a message."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()[-200:]
    except OSError:
        return ""
    faults = [line for line in lines if any(w in line for w in ("ERROR", "FATAL", "Exception", "Error"))] or lines
    return ":\n  " + "\n  ".join(line[:200] for line in faults[-3:])


@contextlib.contextmanager
def _alone(layout: StackLayout) -> Iterator[None]:
    busy = StackBusy(f"the stack in {layout.folder} is already running", hint="questlog stack status")
    with FileLock(layout.folder / "lock").held(busy):
        yield
