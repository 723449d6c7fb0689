"""Group commit: the first thread that waits commits for everybody who came meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from questlog.errors import LogUnavailable

_LOOK_SECONDS = 1.0  # how often a waiting thread makes sure that the one it waits for still lives
GATHER_SECONDS = 0.005
"""How long a leader waits at most for as many others as waited together a moment ago, while the process is
busy. A commit costs it as much processor time as half a request: 64 clients of the development server made
it commit for every second request, and for every fourteenth once the leader waited."""
_BUSY = 0.4  # of a processor; below it there is time for small groups, and nobody waits for others


class Waiter:
    """One thread's work on its way, of a size; then either its result, which is true, or its error."""

    __slots__ = ("error", "finished", "result", "size", "thread", "wake", "work")

    def __init__(self, work: Any, size: int) -> None:
        self.work = work
        self.size = size
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.thread = threading.current_thread()
        self.wake = threading.Lock()  # held until woken: a bare lock wakes a thread at a fifth of an Event's cost
        self.wake.acquire()


class GroupCommit:
    """Runs *commit* for one group at a time, in the thread of one of its waiters (the leader).

    Groups are taken in the order of arrival and hold at most *max_size*, one waiter at least. A leader
    that knows of nobody else does not wait for others. Whatever ends a leader, every waiter of its group
    gets an answer and the next in line leads.
    """

    def __init__(self, commit: Callable[[Sequence[Waiter]], None], *, max_size: int) -> None:
        self._commit = commit
        self._max_size = max_size
        self._lock = threading.Lock()
        self._queue: list[Waiter] = []
        self._group: Sequence[Waiter] = ()
        self._leader: Waiter | None = None
        self._expected = 1  # how many were waiting at once when the last group was answered
        self._gathering = False
        self._looked, self._used = time.monotonic(), time.process_time()

    def submit(self, waiter: Waiter) -> Any:
        """Return the waiter's result once its group is committed.  1 queue  2 wait or lead  3 answer."""
        try:
            with self._lock:
                self._queue.append(waiter)
                if self._leader is None:
                    self._leader = waiter
                elif self._gathering and len(self._queue) >= self._expected:
                    self._gathering = False
                    _wake(self._leader)
            while not waiter.finished:
                if self._leader is waiter:
                    self._lead(waiter)
                elif not waiter.wake.acquire(timeout=_LOOK_SECONDS):
                    self._replace_dead_leader()
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error
        return waiter.result

    def _lead(self, own: Waiter) -> None:
        """Commit everybody in line; *own* is first. *commit* sets results last, once they are durable."""
        busy = self._is_busy()
        with self._lock:
            self._gathering = busy and len(self._queue) < self._expected
        if self._gathering:
            own.wake.acquire(timeout=GATHER_SECONDS)
        with self._lock:
            self._gathering = False
            group = self._group = self._take()
        try:
            self._commit(group)
        except Exception as error:
            _fail(group, error)
        except BaseException as error:
            _fail(group, LogUnavailable(f"the thread that wrote was stopped: {error!r}", retry_after=1))
            raise
        self._hand_over(group, own)

    def _is_busy(self) -> bool:
        """Return whether the process was busy since the last group."""
        now, used = time.monotonic(), time.process_time()
        busy = used - self._used > _BUSY * (now - self._looked)
        self._looked, self._used = now, used
        return busy

    def _take(self) -> list[Waiter]:
        size = taken = 0
        for waiter in self._queue:
            size += waiter.size
            if taken and size > self._max_size:
                break
            taken += 1
        group, self._queue = self._queue[:taken], self._queue[taken:]
        return group

    def _hand_over(self, group: Sequence[Waiter], own: Waiter) -> None:
        """Let the next in line lead, then answer the group: it waits for the disk while we wake threads."""
        with self._lock:
            self._group = ()
            self._expected = len(group) + len(self._queue)
            successor = self._leader = self._queue[0] if self._queue else None
        if successor is not None:
            _wake(successor)
        _finish(group, own)

    def _leave(self, waiter: Waiter) -> None:
        """Take a waiter out that gives up (Ctrl-C, a killed thread); nobody may wait for it."""
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
            if self._leader is not waiter:
                return
            group = self._group
        _fail(group, LogUnavailable("the thread that wrote was stopped", retry_after=1))
        self._hand_over(group, waiter)

    def _replace_dead_leader(self) -> None:
        with self._lock:
            leader = self._leader
            if leader is None or leader.thread.is_alive():
                return
        self._leave(leader)


def _fail(group: Sequence[Waiter], error: Exception) -> None:
    for waiter in group:
        if not waiter.result and waiter.error is None:
            waiter.error = _copy(error)


def _copy(error: Exception) -> Exception:
    """Return an error of its own for each thread: a shared one would collect every thread's traceback."""
    if not isinstance(error, LogUnavailable):
        return error
    copy = type(error)(str(error), hint=error.hint, retry_after=error.retry_after)
    copy.__cause__ = error.__cause__
    return copy


def _finish(group: Sequence[Waiter], own: Waiter) -> None:
    for waiter in group:
        waiter.finished = True
        if waiter is not own:
            _wake(waiter)


def _wake(waiter: Waiter) -> None:
    with contextlib.suppress(RuntimeError):  # woken already
        waiter.wake.release()
