"""Group commit: work that arrives while a commit is under way shares the next one.

The core, `Groups`, is a queue that is cut into groups. It has three faces: `GroupCommit` for a thread that waits, and
in `worker.py` `LoopCommit` for an event loop that is called back, `BackgroundCommit` for a caller that does not wait.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from questlog.errors import LogUnavailable, QueueUnavailable

GATHER_SECONDS = 0.005
"""The longest a leader waits for as many others as waited together a moment ago, while the process is busy. A commit
costs it as much processor time as half a request: with 64 clients of the development server it committed for every
second request, and for every fourteenth once the leader waited."""
_LEADER_CHECK_SECONDS = 1.0  # how often a waiting thread checks that its leader is alive
_BUSY = 0.4  # of a processor; below that, small groups are cheap enough and no leader waits for others


class Waiter:
    """Work of a given size. Once it is committed it may have a result, which is truthy, or its own error."""

    __slots__ = ("error", "result", "size", "work")

    def __init__(self, work: Any, size: int) -> None:
        self.work = work
        self.size = size
        self.result: Any = None
        self.error: BaseException | None = None


Commit = Callable[[Sequence[Waiter]], None]
"""Makes the work of a group durable and only then sets results, if they are wanted. Sets the error of a waiter that
fails alone."""
W = TypeVar("W", bound=Waiter)


class Groups(Generic[W]):
    """Waiters in order of arrival, committed one group at a time.

    A group holds at most *max_size*, but at least one waiter.
    """

    def __init__(self, commit: Commit, *, max_size: int) -> None:
        self._commit = commit
        self._max_size = max_size
        self._lock = threading.Lock()
        self._queue: list[W] = []

    def _take(self) -> list[W]:
        """Take the next group off the queue. The caller holds the lock."""
        size = count = 0
        for waiter in self._queue:
            size += waiter.size
            if count and size > self._max_size:
                break
            count += 1
        group, self._queue = self._queue[:count], self._queue[count:]
        return group

    def _run(self, group: Sequence[W]) -> None:
        """Commit a group. However this ends, each waiter is committed or has an error."""
        try:
            self._commit(group)
        except Exception as error:
            _fail(group, error)
        except BaseException as error:
            _fail(group, _stopped(error))
            raise


def _fail(group: Sequence[Waiter], error: Exception) -> None:
    for waiter in group:
        if not waiter.result and waiter.error is None:
            waiter.error = _copy(error)


def _copy(error: Exception) -> Exception:
    """Return a copy for one waiter: an error raised in several threads would collect all their tracebacks."""
    if not isinstance(error, LogUnavailable | QueueUnavailable):
        return error
    copy = type(error)(str(error), hint=error.hint, retry_after=error.retry_after)
    copy.__cause__ = error.__cause__
    return copy


def _stopped(cause: BaseException | None = None) -> LogUnavailable:
    return LogUnavailable(f"the committing thread was stopped{f': {cause!r}' if cause else ''}", retry_after=1)


class _ThreadWaiter(Waiter):
    """A thread's work, and the lock on which that thread sleeps."""

    __slots__ = ("is_finished", "thread", "wake")

    def __init__(self, work: Any, size: int) -> None:
        super().__init__(work, size)
        self.is_finished = False
        self.thread = threading.current_thread()
        self.wake = threading.Lock()  # held until woken: a bare lock wakes a thread at a fifth of an Event's cost
        self.wake.acquire()


class GroupCommit(Groups[_ThreadWaiter]):
    """Runs *commit* in the thread of one of the waiters, the leader, so that no thread is woken to commit.

    A leader that is alone does not wait for others. However a leader ends, every waiter of its group gets a result
    or an error and the next in line leads.
    """

    def __init__(self, commit: Commit, *, max_size: int) -> None:
        super().__init__(commit, max_size=max_size)
        self._group: Sequence[_ThreadWaiter] = ()
        self._leader: _ThreadWaiter | None = None
        self._expected = 1  # how many were waiting at once when the last group was answered
        self._is_gathering = False
        self._measured, self._used = time.monotonic(), time.process_time()

    def submit(self, work: Any, size: int) -> Any:
        """Return the result of *work* once its group is committed.  1 queue  2 wait or lead  3 answer."""
        waiter = _ThreadWaiter(work, size)
        try:
            with self._lock:
                self._queue.append(waiter)
                if self._leader is None:
                    self._leader = waiter
                elif self._is_gathering and len(self._queue) >= self._expected:
                    self._is_gathering = False
                    _wake(self._leader)
            while not waiter.is_finished:
                if self._leader is waiter:
                    self._lead(waiter)
                elif not waiter.wake.acquire(timeout=_LEADER_CHECK_SECONDS):
                    self._replace_dead_leader()
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error
        return waiter.result

    def _lead(self, leader: _ThreadWaiter) -> None:
        """Commit the next group; *leader* is the first of it."""
        is_busy = self._is_busy()
        with self._lock:
            self._is_gathering = is_busy and len(self._queue) < self._expected
        if self._is_gathering:
            leader.wake.acquire(timeout=GATHER_SECONDS)
        with self._lock:
            self._is_gathering = False
            group = self._group = self._take()
        self._run(group)
        self._hand_over(group, leader)

    def _is_busy(self) -> bool:
        """Return whether the process was busy since the last group."""
        now, used = time.monotonic(), time.process_time()
        is_busy = used - self._used > _BUSY * (now - self._measured)
        self._measured, self._used = now, used
        return is_busy

    def _hand_over(self, group: Sequence[_ThreadWaiter], leader: _ThreadWaiter) -> None:
        """Let the next in line lead, then answer the group: the successor waits for the disk while threads wake up."""
        with self._lock:
            self._group = ()
            self._expected = len(group) + len(self._queue)
            successor = self._leader = self._queue[0] if self._queue else None
        if successor is not None:
            _wake(successor)
        for waiter in group:
            waiter.is_finished = True
            if waiter is not leader:
                _wake(waiter)

    def _leave(self, waiter: _ThreadWaiter) -> None:
        """Remove a waiter that gives up (Ctrl-C, a killed thread), so that no leader waits for it."""
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
            if self._leader is not waiter:
                return
            group = self._group
        _fail(group, _stopped())
        self._hand_over(group, waiter)

    def _replace_dead_leader(self) -> None:
        with self._lock:
            leader = self._leader
            if leader is None or leader.thread.is_alive():
                return
        self._leave(leader)


def _wake(waiter: _ThreadWaiter) -> None:
    with contextlib.suppress(RuntimeError):  # already awake
        waiter.wake.release()
