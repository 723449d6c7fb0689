"""`questlog up`: runs what a project needs, each part in a process of its own, and restarts what dies."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from questlog.errors import LanderReplaced, QuestlogError
from questlog.messages import start_logging
from questlog.stopping import when_told

STOP_SECONDS = 20.0
"""How long a part may take to end in good order before it is killed; it loses nothing by that."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
STEADY_SECONDS = 60.0
"""A part that lived so long is restarted at once."""

logger = logging.getLogger("questlog.up")
_NO_DOORS: Mapping[str, Sequence[socket.socket]] = {}
Part = Callable[[Path, threading.Event, Callable[[], None]], None]
"""Project folder, told to stop, to be called when it has begun its work."""


@click.command()
@click.option("--only", type=click.Choice(["forwarder", "lander"]), help="Run this part alone.")
@click.option("--collect", is_flag=True, help="Run a collector too, as if the setting collect_port were 8090.")
@click.option("--json", "as_json", is_flag=True, help="Write the messages as lines of JSON.")
@click.pass_obj
def up(folder: Path, only: str | None, collect: bool, as_json: bool) -> None:
    """Run what this project needs until Ctrl-C: the lander, which moves events from the log to the tables.

    On the cluster profile the forwarder too, which moves them from this machine's log to Kafka, where the
    lander finds them; --only forwarder is for a machine that runs the game, while another one lands.

    With --collect, or with the setting collect_port, it also runs the collector, which takes events over HTTP.

    A part that dies is started again. Ctrl-C lands what is logged by then and stops. Events are accepted by
    your app and can be asked for whether this runs or not.
    """
    from questlog.collector.serve import DEFAULT_PORT, collector_workers
    from questlog.settings import find_project

    start_logging(as_json)
    settings = find_project(folder).settings
    parts = dict(_parts(folder, only))
    doors: Mapping[str, Sequence[socket.socket]] = {}
    port = settings.collect_port or (DEFAULT_PORT if collect else 0)
    if port and (collect or only is None):
        collectors, doors = collector_workers(folder, settings.collect_host, port, workers=1)
        parts |= collectors
    code = Supervisor(folder, parts, doors).run()
    if code:
        sys.exit(code)


def _parts(folder: Path, only: str | None) -> dict[str, Part]:
    """Return what the project's profile runs, by name; each part opens the project in its own process."""
    from questlog.pipeline import open_pipeline

    pipeline = open_pipeline(folder)
    names = list(pipeline.parts)
    if only is not None and only not in names:
        raise click.UsageError(f"the {pipeline.project.settings.profile} profile has no {only}")
    return {name: partial(_run_part, name) for name in names if only in (None, name)}


def _run_part(name: str, folder: Path, stop: threading.Event, ready: Callable[[], None]) -> None:
    from questlog.pipeline import open_pipeline

    open_pipeline(folder).parts[name](stop, ready)


@dataclass(slots=True)
class _Child:
    """A part that runs. On `line` it says that it has begun; there it sees us die, however we die."""

    name: str
    started: float
    line: socket.socket
    told: bool = False


class Supervisor:
    """Starts each part as a child, restarts what dies, and ends with all of them.

    It imports nothing heavy and starts no thread, so that a child may be forked at any time. *doors* are sockets
    that listen, by the part that serves them: we hold them for its successor, no other part does, and once we stop
    only the part itself says when its door closes.
    """

    def __init__(
        self, folder: Path, parts: Mapping[str, Part], doors: Mapping[str, Sequence[socket.socket]] = _NO_DOORS
    ) -> None:
        self._folder, self._parts, self._doors = folder, parts, doors
        self._children: dict[int, _Child] = {}
        self._due: dict[str, float] = dict.fromkeys(parts, 0.0)
        self._pause: dict[str, float] = dict.fromkeys(parts, FIRST_PAUSE)
        self._settled: set[str] = set()
        self._stop_by: float | None = None
        self._code = 0

    def run(self) -> int:
        """Run until told to stop, or until a part cannot start at all; return the exit code."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that a child's end wakes the wait below
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        while True:
            self._start_due()
            self._tell()
            self._reap()
            if self._stop_by is not None and not self._children:
                return self._code
            _wait(read, self._next_due())

    def _stop(self) -> None:
        self._stop_by = self._stop_by or time.monotonic() + STOP_SECONDS

    def _start_due(self) -> None:
        now = time.monotonic()
        for name, when in list(self._due.items()):
            if when <= now and self._stop_by is None:
                del self._due[name]
                self._fork(name)

    def _fork(self, name: str) -> None:
        line, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        numbers = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until the child has handlers of its own
        pid = os.fork()
        if not pid:
            for ours in (line, *(child.line for child in self._children.values())):
                ours.close()
            self._close_doors(but=name)
            os._exit(_be(self._parts[name], self._folder, theirs))
        self._children[pid] = _Child(name, time.monotonic(), line)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        theirs.close()

    def _close_doors(self, but: str = "") -> None:
        """Close our copies: a door is open as long as anybody has one."""
        for name, sockets in self._doors.items():
            for each in sockets if name != but else ():
                each.close()

    def _tell(self) -> None:
        """Tell each child once that we stop, and kill it when its time is up."""
        if self._stop_by is None:
            return
        self._close_doors()
        late = time.monotonic() > self._stop_by
        for pid, child in self._children.items():
            if late or not child.told:
                child.told = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)

    def _reap(self) -> None:
        """Note who ended and when to start it again; who cannot start at all ends everything."""
        for pid, child in list(self._children.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            lived = time.monotonic() - child.started
            if not done:
                continue
            del self._children[pid]
            with contextlib.suppress(BlockingIOError, ConnectionResetError), child.line:
                if child.line.recv(1, socket.MSG_DONTWAIT):
                    self._settled.add(child.name)
            code = os.waitstatus_to_exitcode(status)
            if self._stop_by is not None:
                self._code = self._code or max(code, 0)
            elif code == LanderReplaced.exit_code:  # two that start each other's rival again would never end
                self._code = code
                logger.error(
                    "the %s (process %d) was replaced by another one and is not started again", child.name, pid
                )
                if not self._children and not self._due:
                    self._stop()
            elif code > 0 and child.name not in self._settled:
                self._code = code  # its own message says why
                self._stop()
            else:
                self._restart(pid, child.name, code, lived)

    def _restart(self, pid: int, name: str, code: int, lived: float) -> None:
        self._settled.add(name)
        if lived > STEADY_SECONDS:
            self._pause[name] = FIRST_PAUSE
        pause = self._pause[name]
        self._pause[name] = min(2 * pause, LONGEST_PAUSE)
        self._due[name] = time.monotonic() + pause
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        logger.warning("the %s (process %d) %s; it starts again in %.1f s", name, pid, end, pause)

    def _next_due(self) -> float:
        """Return for how many seconds nothing needs to be done unless a signal comes."""
        waits = [when - time.monotonic() for when in self._due.values()]
        return max(0.01, min([*waits, 0.5]))


def _be(part: Part, folder: Path, line: socket.socket) -> int:
    """Be a part: end in good order when told to, at once when the supervisor is gone; return the exit code."""
    stop = threading.Event()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the supervisor tells us
    when_told(stop.set, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    try:
        part(folder, stop, lambda: line.sendall(b"b"))
    except QuestlogError as error:
        click.echo(f"questlog: {error}" + (f"\n  try: {error.hint}" if error.hint else ""), err=True)
        return error.exit_code
    except BaseException:
        logger.exception("this should not have happened; please report it")
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _end_with(line: socket.socket) -> None:
    """End this process at once when the other end closes: its successor does what is left."""
    with contextlib.suppress(OSError):  # "reset", if what we said there was never read
        line.recv(1)
    os._exit(1)


def _wait(descriptor: int, seconds: float) -> None:
    """Wait for a signal, *seconds* at most."""
    if select.select([descriptor], [], [], seconds)[0]:
        with contextlib.suppress(BlockingIOError):
            while os.read(descriptor, 512):
                pass
