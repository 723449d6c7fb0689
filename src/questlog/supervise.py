"""Keeps processes running: one supervisor, one restart policy, and two ways to start a child.

A `ForkedChild` runs a function, and may serve sockets that stay open across its restarts; `stack/supervisor.py`
starts commands. The supervisor imports nothing heavy and starts no thread, so it can fork at any time.
"""

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
from typing import Protocol

from questlog.errors import LanderReplaced, QuestlogError
from questlog.stopping import on_signal

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0
"""Seconds until a child that ended is restarted; the pause doubles each time."""
STEADY_SECONDS = 60.0
"""After a child has run this long, its pause starts from the first one again."""
STOP_SECONDS = 20.0
"""How long a child may take to stop before it is killed. Killing it loses no event."""
POLL_SECONDS = 0.5

logger = logging.getLogger("questlog.up")


class Child(Protocol):
    """One process that a supervisor keeps running."""

    name: str
    needs: Sequence[str] = ()
    """Children that are stopped only after this one has ended."""
    attempts: int = 1
    """After this many failures before it was ever ready, a restart will not help: the supervisor stops."""
    stop_seconds: float = STOP_SECONDS
    final_codes: Sequence[int] = ()
    """Exit codes after which it is not restarted."""
    failure: str = ""
    """Why it cannot run at all; "" as long as it can."""

    def start(self) -> None:
        """Start the process."""

    def exit_code(self) -> int | None:
        """Return the exit code of a process that has ended, negative for a signal; None while it runs."""

    def is_ready(self) -> bool:
        """Return whether it has begun its work since its last start."""

    def stop(self) -> None:
        """Ask it to end in good order."""

    def kill(self) -> None:
        """Kill it."""

    def closing(self) -> None:
        """The supervisor is stopping: release what is kept for the next start."""
        return

    def restarting(self, code: int, seconds: float) -> None:
        """It ended with *code* and is restarted in *seconds*."""
        return

    def given_up(self, code: int) -> None:
        """It ended with *code* and is not restarted."""
        return

    def stopped(self) -> None:
        """It has ended because the supervisor stops."""
        return


@dataclass(slots=True)
class _Run:
    """The supervisor's record of one child."""

    child: Child
    pause: float
    """Seconds to wait before its next restart."""
    due: float | None = 0.0
    """When to start it; None while it runs, and when it is not to be restarted."""
    started: float | None = None
    """When it was started; None while it does not run."""
    failures: int = 0
    settled: bool = False
    """Whether it was ever ready, or was killed from outside. It is then restarted regardless of its exit code."""
    stop_sent: float | None = None


class Supervisor:
    """Starts each child, restarts those that end, and ends with all of them."""

    def __init__(self, children: Sequence[Child], wanted: Callable[[], bool] = lambda: True) -> None:
        """*wanted* is asked every `POLL_SECONDS`; once it returns False the supervisor stops."""
        self._runs = {child.name: _Run(child, FIRST_PAUSE) for child in children}
        self._wanted = wanted
        self._stopping = False
        self._closed = False
        self._code = 0

    def run(self) -> int:
        """Run until SIGINT or SIGTERM, or until a child cannot start at all; return the exit code."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a child's end wakes the wait below
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self.stop())
        while True:
            self._start_due()
            self._stop_children()
            self._reap()
            if self._stopping and all(run.started is None for run in self._runs.values()):
                return self._code
            _wait(read, self._next_due())
            if not self._wanted():
                self.stop()

    def stop(self) -> None:
        """Ask `run` to end all children and return."""
        self._stopping = True

    def _start_due(self) -> None:
        for run in self._runs.values():
            if not self._stopping and run.due is not None and run.due <= time.monotonic():
                run.due, run.started = None, time.monotonic()
                run.child.start()

    def _stop_children(self) -> None:
        """Ask each child once to stop, after those that need it have ended; kill it when its time is up."""
        if not self._stopping:
            return
        running = [run for run in self._runs.values() if run.started is not None]
        if not self._closed:
            self._closed = True
            for run in self._runs.values():
                run.child.closing()
        for run in running:
            if run.stop_sent is None:
                if not any(run.child.name in other.child.needs for other in running):
                    run.stop_sent = time.monotonic()
                    run.child.stop()
            elif time.monotonic() > run.stop_sent + run.child.stop_seconds:
                run.child.kill()

    def _reap(self) -> None:
        """Collect the children that have ended, and decide about each."""
        for run in self._runs.values():
            if run.started is None:
                continue
            code = run.child.exit_code()
            run.settled = run.settled or run.child.is_ready()  # after: it may have been ready just before it ended
            if run.child.failure and not self._stopping:
                self._code = 1
                self.stop()
            if code is not None:
                lived, run.started = time.monotonic() - run.started, None
                self._ended(run, code, lived)

    def _ended(self, run: _Run, code: int, lived: float) -> None:
        if self._stopping:
            self._code = self._code or max(code, 0)
            run.child.stopped()
            return
        if code in run.child.final_codes:  # restarting it would replace the new one in turn, forever
            self._code = code
            run.child.given_up(code)
            if not any(each.started is not None or each.due is not None for each in self._runs.values()):
                self.stop()
            return
        run.settled = run.settled or code < 0
        run.failures += not run.settled and code > 0
        if run.failures >= run.child.attempts and not run.settled:
            self._code = code
            run.child.given_up(code)
            self.stop()
            return
        if lived > STEADY_SECONDS:
            run.pause = FIRST_PAUSE
        run.due = time.monotonic() + run.pause
        run.child.restarting(code, run.pause)
        run.pause = min(2 * run.pause, LONGEST_PAUSE)

    def _next_due(self) -> float:
        """Return the seconds until the next start is due, at most `POLL_SECONDS`."""
        waits = [run.due - time.monotonic() for run in self._runs.values() if run.due is not None]
        return max(0.01, min([*waits, POLL_SECONDS]))


def _wait(descriptor: int, seconds: float) -> None:
    """Wait up to *seconds* for a signal."""
    if select.select([descriptor], [], [], seconds)[0]:
        with contextlib.suppress(BlockingIOError):
            while os.read(descriptor, 512):
                pass


# -- children that are forked --------------------------------------------------------------------

Part = Callable[[Path, threading.Event, Callable[[], None]], None]
"""What a forked child runs. Its arguments: the project folder, an event that asks it to stop, and a function that it
calls once it has begun its work."""
_NO_SOCKETS: Mapping[str, Sequence[socket.socket]] = {}


def forked(
    folder: Path, parts: Mapping[str, Part], listening: Mapping[str, Sequence[socket.socket]] = _NO_SOCKETS
) -> list[Child]:
    """Return a child for each part. *listening* are the sockets that a part serves.

    The supervisor holds these for the part's successor; no other part does. Once the supervisor stops, they close
    when the part itself closes them.
    """
    children: list[ForkedChild] = []
    for name, part in parts.items():
        children.append(ForkedChild(name, partial(part, folder), listening.get(name, ()), children))
    return list(children)


class ForkedChild(Child):
    """A function in its own process. It exits at once when the supervisor's process is gone for any reason."""

    final_codes = (LanderReplaced.exit_code,)

    def __init__(
        self,
        name: str,
        work: Callable[[threading.Event, Callable[[], None]], None],
        sockets: Sequence[socket.socket],
        siblings: Sequence[ForkedChild],
    ) -> None:
        self.name, self._work = name, work
        self._sockets, self._siblings = sockets, siblings
        self._pid = 0
        self._line: socket.socket | None = None
        """A socket pair: the child writes to it when it is ready, and sees it close when the supervisor dies."""
        self._ready = False

    def start(self) -> None:
        self._line, theirs = socket.socketpair()
        self._ready = False
        sys.stdout.flush()
        sys.stderr.flush()
        numbers = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # until the child has installed its handlers
        self._pid = os.fork()
        if not self._pid:
            for each in self._siblings:
                each.forget(sockets=each is not self)
            os._exit(_work_until_stopped(self._work, theirs))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        theirs.close()

    def forget(self, *, sockets: bool) -> None:
        """Close this process's copy of the line and, if asked, of the sockets: a socket is open while any copy is."""
        if self._line is not None:
            self._line.close()
        if sockets:
            self.closing()

    def exit_code(self) -> int | None:
        done, status = os.waitpid(self._pid, os.WNOHANG)
        if not done:
            return None
        self.is_ready()  # read what it wrote before the line closes
        if self._line is not None:
            self._line.close()
            self._line = None
        return os.waitstatus_to_exitcode(status)

    def is_ready(self) -> bool:
        if not self._ready and self._line is not None:
            with contextlib.suppress(BlockingIOError, ConnectionResetError):
                self._ready = bool(self._line.recv(1, socket.MSG_DONTWAIT))
        return self._ready

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def closing(self) -> None:
        for each in self._sockets:
            each.close()

    def restarting(self, code: int, seconds: float) -> None:
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        logger.warning("the %s (process %d) %s; restarting it in %.1f s", self.name, self._pid, end, seconds)

    def given_up(self, code: int) -> None:
        if code in self.final_codes:
            logger.error("the %s (process %d) was replaced by another one and is not restarted", self.name, self._pid)


def _work_until_stopped(work: Callable[[threading.Event, Callable[[], None]], None], line: socket.socket) -> int:
    """Run *work* in the child: stop on SIGTERM, exit at once if the supervisor dies; return the exit code."""
    stop = threading.Event()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the child too, but the supervisor stops it
    on_signal(stop.set, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    try:
        work(stop, lambda: line.sendall(b"r"))
    except QuestlogError as error:
        print(f"questlog: {error}" + (f"\n  try: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except BaseException:
        logger.exception("internal error; please report it")
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _end_with(line: socket.socket) -> None:
    """Exit at once when the other end closes; the next process continues the work."""
    with contextlib.suppress(OSError):  # "reset" if the supervisor died before reading the ready byte
        line.recv(1)
    os._exit(1)
