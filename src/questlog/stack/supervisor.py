"""Keeps the servers running: starts each once those it needs are healthy, and stops them in the opposite order.

A lock allows one supervisor per stack. It writes the servers' states to `run/state.json`, which `status` reads.
If it is killed, its servers keep running and the next supervisor adopts them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
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
from questlog.stack.processes import Identity, holder_of, recall, remember, send_signal
from questlog.stack.servers import Server
from questlog.supervise import Child, Supervisor

START_SECONDS = 400.0
ATTEMPTS = 3
"""A server that fails this often before it was ever healthy is not restarted."""
CHECK_SECONDS = 0.15
Report = Callable[[str], None]


@dataclass(slots=True)
class ServerState:
    """What the supervisor reports about one server."""

    name: str
    state: str = "waiting"
    pid: int = 0
    restarts: int = 0
    seconds: float = 0.0
    """From its last start until it was healthy."""
    trouble: str = ""


class StackBusy(QuestlogError):
    """Another supervisor is running this stack."""

    exit_code = 3


class StackSupervisor:
    """Runs *servers* in *layout* until SIGINT or SIGTERM."""

    def __init__(self, layout: StackLayout, servers: Sequence[Server], report: Report = lambda line: None) -> None:
        self._layout = layout
        states = _States(layout, [ServerState(server.name) for server in servers])
        self._states = states
        self._children = [
            ServerChild(layout, server, states, report, needs=[earlier.name for earlier in servers[:number]])
            for number, server in enumerate(servers)
        ]

    def run(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Run the servers while *wanted* returns True; raise if one cannot start at all."""
        layout = self._layout
        layout.run.mkdir(parents=True, exist_ok=True)
        with _alone(layout):
            self._refuse_conflicts()
            layout.write_configuration()
            remember(layout.run / "supervisor.json", os.getpid())
            try:
                Supervisor(self._children, wanted).run()
            finally:
                (layout.run / "supervisor.json").unlink(missing_ok=True)
        for child in self._children:
            if child.failure:
                raise QuestlogError(child.failure, hint="questlog stack logs SERVER shows its whole output")

    def ready(self) -> bool:
        """Return whether every server is healthy."""
        return self._states.all_healthy()

    def _refuse_conflicts(self) -> None:
        """Name each port that another process holds, before anything starts."""
        faults = []
        for child in self._children:
            if child.adopts():
                continue
            for name in child.server.ports:
                port = self._layout.ports[name]
                if _is_held(port):
                    holder = holder_of(port) or "another process"
                    faults.append(f"port {port} ({name}) is held by {holder}")
        if faults:
            raise QuestlogError("; ".join(faults), hint='stack_ports = "NAME=NUMBER …" moves one, "free" moves all')


class _States:
    """The servers' states, written whole to `run/state.json` at each change."""

    def __init__(self, layout: StackLayout, states: Sequence[ServerState]) -> None:
        self._layout, self._states = layout, {state.name: state for state in states}
        self._lock = threading.Lock()

    def note(self, name: str, state: str, **changes: object) -> None:
        """Change one server's state."""
        with self._lock:
            changed = self._states[name]
            changed.state, changed.trouble = state, ""
            for key, value in changes.items():
                setattr(changed, key, value)
            states = json.dumps([asdict(each) for each in self._states.values()])
            write_file(self._layout.run / "state.json", states)

    def is_healthy(self, name: str) -> bool:
        """Return whether a server is healthy; one that does not belong to this stack counts as healthy."""
        return name not in self._states or self._states[name].state == "healthy"

    def all_healthy(self) -> bool:
        return all(map(self.is_healthy, self._states))

    def count_restart(self, name: str) -> int:
        return self._states[name].restarts + 1


class ServerChild(Child):
    """One server. A thread prepares it, starts its command and checks it until it is healthy."""

    attempts = ATTEMPTS

    def __init__(
        self, layout: StackLayout, server: Server, states: _States, report: Report, *, needs: Sequence[str]
    ) -> None:
        self.name, self.needs, self.stop_seconds = server.name, needs, server.stop_seconds
        self.failure = ""
        self.server = server
        self._layout, self._states, self._report = layout, states, report
        self._stop = threading.Event()
        self._identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._healthy = self._killed = False
        self._thread = threading.Thread()

    def adopts(self) -> bool:
        """Return whether it is running already: its last supervisor was killed."""
        return recall(self._pid_file) is not None

    def start(self) -> None:
        self._identity, self._process, self._healthy = recall(self._pid_file), None, False
        self._thread = threading.Thread(target=self._bring_up, name=f"keep-{self.name}")
        self._thread.start()

    def exit_code(self) -> int | None:
        """Return the exit code; 0 for an adopted process, whose code cannot be read.

        A server that ended before it was ever healthy has failed, also with code 0 or by a signal: the JVM aborts with
        SIGABRT, and the kernel kills what needs too much memory.
        """
        if self._thread.is_alive():
            return None  # the thread itself detects that the process has ended
        if self._process is not None:
            code = self._process.poll()
        else:
            code = None if self._identity is not None and self._identity.alive() else 0
        if code is None or self._healthy or self._stop.is_set():
            return code
        return 1

    def is_ready(self) -> bool:
        return self._healthy

    def stop(self) -> None:
        self._stop.set()
        if self._identity is not None:
            self._note("stopping")
            send_signal(self._identity, signal.SIGTERM)
            send_signal(self._identity, signal.SIGCONT)  # a frozen process does not act on SIGTERM

    def kill(self) -> None:
        if self._identity is not None and not self._killed:
            self._killed = True
            send_signal(self._identity, signal.SIGKILL)
            self._report(f"{self.name} did not stop in {self.stop_seconds:g} s and was killed")

    def restarting(self, code: int, seconds: float) -> None:
        self._note("restarting", restarts=self._states.count_restart(self.name))
        self._report(f"{self.name} ended; restarting it in {seconds:.1f} s")

    def given_up(self, code: int) -> None:
        self._fail(f"ended {self.attempts} times before it was healthy{_last_words(self._log)}")

    def stopped(self) -> None:
        self._pid_file.unlink(missing_ok=True)
        if not self.failure:
            self._note("stopped", pid=0)

    def _bring_up(self) -> None:
        """1 prepare  2 wait for the servers that it needs  3 start the command  4 check until it is healthy."""
        started = time.monotonic()
        try:
            if self._identity is None:
                self._prepare()
                while not all(map(self._states.is_healthy, self.server.needs)) and not self._stop.wait(0.1):
                    pass
                if self._stop.is_set():
                    return
                started = time.monotonic()
                self._launch()
            self._await_health(started)
        except (QuestlogError, OSError) as error:
            self._fail(str(error))

    def _prepare(self) -> None:
        """Create the server's initial data, once; from scratch if an earlier attempt was interrupted."""
        for name, command in self.server.prepare.items():
            folder = self._layout.data / name
            done = folder.with_suffix(".prepared")
            if done.exists() or self._stop.is_set():
                continue
            self._note("preparing")
            shutil.rmtree(folder, ignore_errors=True)
            process = self._run(command(self._layout))
            while process.poll() is None:
                if self._stop.wait(0.05):
                    process.kill()
                    process.wait()
                    return
            if process.returncode:
                raise QuestlogError(f"preparing it failed{_last_words(self._log)}")
            done.touch()

    def _launch(self) -> None:
        self._process = self._run(self.server.command(self._layout))
        self._identity = remember(self._pid_file, self._process.pid)
        self._note("starting", pid=self._process.pid)
        if self._stop.is_set():  # `stop` ran before the process existed
            send_signal(self._identity, signal.SIGTERM)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command in its own session: Ctrl-C then reaches only the supervisor, which stops servers in order."""
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self._layout.logs,
                env={**os.environ, **self.server.environment(self._layout)},
                start_new_session=True,
            )

    def _await_health(self, started: float) -> None:
        """Check until it is healthy or has ended; raise after `START_SECONDS`."""
        assert self._identity is not None
        self._note("starting", pid=self._identity.pid)
        while self._lives() and not self._stop.wait(CHECK_SECONDS):
            try:
                act = self.server.check(self._layout)
            except NotInstalled:
                raise
            except Exception as error:  # clients raise errors of many kinds while the server is starting
                self._note("starting", trouble=str(error))
                if time.monotonic() - started > START_SECONDS:
                    raise QuestlogError(f"it is not healthy after {START_SECONDS:g} s: {error}") from error
                continue
            seconds = time.monotonic() - started
            self._healthy = True
            self._note("healthy", seconds=round(seconds, 1))
            self._report(f"{self.name:<10} healthy after {seconds:4.1f} s: {act}")
            return

    def _lives(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return self._identity is not None and self._identity.alive()

    def _fail(self, reason: str) -> None:
        self.failure = f"{self.server.title} cannot start: {reason}"
        self._note("failed", trouble=reason)

    def _note(self, state: str, **changes: object) -> None:
        self._states.note(self.name, state, **changes)

    @property
    def _pid_file(self) -> Path:
        return self._layout.run / f"{self.name}.json"

    @property
    def _log(self) -> Path:
        return self._layout.logs / f"{self.name}.log"


def read_states(run: Path) -> dict[str, ServerState]:
    """Return the states that the supervisor wrote last."""
    try:
        return {each["name"]: ServerState(**each) for each in json.loads((run / "state.json").read_text("utf-8"))}
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
    """Return the last lines of a log that name an error, as part of a message."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()[-200:]
    except OSError:
        return ""
    errors = [line for line in lines if any(w in line for w in ("ERROR", "FATAL", "Exception", "Error"))] or lines
    return ":\n  " + "\n  ".join(line[:200] for line in errors[-3:])


@contextlib.contextmanager
def _alone(layout: StackLayout) -> Iterator[None]:
    busy = StackBusy(f"the stack in {layout.folder} is already running", hint="questlog stack status")
    with FileLock(layout.folder / "lock").held(busy):
        yield
