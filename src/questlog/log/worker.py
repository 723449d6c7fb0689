"""Group commit in a dedicated thread: for an event loop that is called back, and for a caller that does not wait."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from questlog.errors import LogUnavailable
from questlog.log.group import Commit, Groups, Waiter

UNLIMITED = 1 << 62
W = TypeVar("W", bound=Waiter)
logger = logging.getLogger("questlog.log")


class _WorkerCommit(Groups[W]):
    """Runs *commit* in a dedicated thread, one group each time it is woken.

    At most *max_waiting* waiters, together at most *max_waiting_size*, are in memory until they are answered. Before
    each group the thread waits *gather_seconds*, unless it is stopping.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        name: str,
        max_size: int,
        max_waiting: int = UNLIMITED,
        max_waiting_size: int = UNLIMITED,
        gather_seconds: float = 0.0,
    ) -> None:
        super().__init__(commit, max_size=max_size)
        self.max_waiting, self.max_waiting_size = max_waiting, max_waiting_size
        self.stopping = threading.Event()
        self.waiting = self._waiting_size = 0  # until answered
        self._gather_seconds = gather_seconds
        self._is_awake = False
        self._wake_ups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _add(self, waiter: W) -> None:
        """Queue a waiter, or raise because too many are waiting. The caller holds the lock."""
        if self.waiting >= self.max_waiting or self._waiting_size + waiter.size > self.max_waiting_size:
            raise LogUnavailable(f"{self.waiting} requests are already waiting for the log", hint="questlog doctor")
        self.waiting += 1
        self._waiting_size += waiter.size
        self._queue.append(waiter)

    def _remove(self, waiters: Sequence[W]) -> None:
        """Make room for others. The caller holds the lock."""
        self.waiting -= len(waiters)
        self._waiting_size -= sum(waiter.size for waiter in waiters)

    def _wake_up(self) -> None:
        """Have the thread commit the next group, if there is one. The caller holds the lock."""
        if self._queue and not self._is_awake:
            self._is_awake = True
            self._wake_ups.put(None)

    def _end(self, timeout: float | None = None) -> bool:
        """Let the thread commit what is queued and end; return whether it has ended in time."""
        with self._lock:
            self.stopping.set()
        self._wake_ups.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self.stopping.is_set() or self._queue:  # in this order: nothing is queued once it is stopping
            self._wake_ups.get()
            if self._gather_seconds:
                self.stopping.wait(self._gather_seconds)
            with self._lock:
                group = self._take()
            began = time.perf_counter()
            try:
                self._run(group)
            except BaseException:  # each waiter has its error; the next group may succeed
                logger.exception("stage=append a group commit was stopped")
            with self._lock:  # `submit` checks this and queues in one step, so that no waiter misses its wake-up
                self._is_awake = False
            self._answer(group, time.perf_counter() - began)

    def _answer(self, group: Sequence[W], seconds: float) -> None:
        """Wake up for the next group and report this one, whose commit took *seconds*."""
        raise NotImplementedError


class EventLoop(Protocol):
    """What `LoopCommit` needs of asyncio's event loop, or one with the same interface."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object: ...

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> object: ...


class _LoopWaiter(Waiter):
    """A coroutine's work, and whom to call on which loop."""

    __slots__ = ("done", "loop")

    def __init__(self, work: Any, size: int, loop: EventLoop, done: Callable[[Any], None]) -> None:
        self.work = work  # no super().__init__: every request makes a waiter, and the call costs a third of it
        self.size = size
        self.result = None
        self.error = None
        self.loop = loop
        self.done = done


class LoopCommit(_WorkerCommit[_LoopWaiter]):
    """Calls back on the event loop that submitted the work. All work of one turn of a loop shares a commit.

    *observe* is called on a loop with the seconds that each commit took.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        name: str,
        max_size: int,
        max_waiting_size: int = UNLIMITED,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        super().__init__(commit, name=name, max_size=max_size, max_waiting_size=max_waiting_size)
        self._observe = observe

    def submit(self, loop: EventLoop, work: Any, size: int, done: Callable[[Any], None]) -> None:
        """Call `done(None)` on *loop* once *work* is durable, or `done(error)` if none of it is acknowledged.

        Must be called on *loop*. Raises `LogUnavailable` if too much is waiting.
        """
        waiter = _LoopWaiter(work, size, loop, done)
        with self._lock:
            starts = not self._is_awake and (not self._queue or self._queue[-1].loop is not loop)
            self._add(waiter)
        if starts:
            loop.call_soon(self._start)  # after the other requests of this turn

    def close(self) -> None:
        """End the thread. Everything must have been answered."""
        self._end()

    def _start(self) -> None:
        with self._lock:
            self._wake_up()

    def _answer(self, group: Sequence[_LoopWaiter], seconds: float) -> None:
        """Let the loops wake the thread, after the requests of their turn have joined the next group.

        A thread that took only the queued work committed half as much at a time, and a request cost 18% more processor
        time.
        """
        loops = {waiter.loop for waiter in (*group, *self._queue)}
        for loop in loops:
            waiters = group if len(loops) == 1 else [waiter for waiter in group if waiter.loop is loop]
            try:
                loop.call_soon_threadsafe(self._settle, waiters, seconds)
            except RuntimeError:  # the loop is closed, so no coroutine is waiting
                with self._lock:
                    self._remove(waiters)

    def _settle(self, waiters: Sequence[_LoopWaiter], seconds: float) -> None:
        """Answer the waiters of one loop, once the next group is under way."""
        with self._lock:
            self._wake_up()
            self._remove(waiters)
        self._observe(seconds)
        for waiter in waiters:
            try:
                waiter.done(waiter.error)
            except Exception:  # one failed response must not affect the others
                logger.exception("stage=append a response failed")


class BackgroundCommit(_WorkerCommit[Waiter]):
    """Commits work without making its caller wait. *commit* itself retries, and hurries once `stopping` is set."""

    def put(self, work: Any, size: int) -> bool:
        """Queue *work*; return False if this is closed. Raises `LogUnavailable` if too much is waiting."""
        with self._lock:
            if self.stopping.is_set():
                return False
            self._add(Waiter(work, size))
            self._wake_up()
            return True

    def close(self, timeout: float) -> bool:
        """Commit what is queued and end the thread; return whether that succeeded in time."""
        if not self._thread.is_alive():  # in a forked child it never ran
            return True
        return self._end(timeout)

    def _answer(self, group: Sequence[Waiter], seconds: float) -> None:
        with self._lock:
            self._remove(group)
            self._wake_up()
