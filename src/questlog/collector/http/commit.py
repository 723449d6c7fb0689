"""Group commit on an event loop: what arrives in one turn, or while the disk works, shares one append."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from questlog.errors import LogUnavailable
from questlog.log import Log

MAX_GROUP_BYTES = 8 << 20
MAX_WAITING_BYTES = 64 << 20

logger = logging.getLogger("questlog.collector")
Done = Callable[[LogUnavailable | None], None]
_Work = tuple[Sequence[bytes], int, Done]


class Committer:
    """Appends in one thread of its own; a request costs no thread. All methods are for the loop's thread."""

    def __init__(self, log: Log, observe: Callable[[float], None] = lambda _: None) -> None:
        self._log, self._observe = log, observe
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Work] = []
        self._bytes = 0
        self._busy = False
        self._groups: queue.SimpleQueue[Sequence[_Work] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="questlog-commit", daemon=True)
        self._thread.start()

    def submit(self, records: Sequence[bytes], done: Done) -> None:
        """Call *done* once *records* are durable, or with why nothing of them is acknowledged."""
        size = sum(map(len, records))
        if self._bytes + size > MAX_WAITING_BYTES:
            done(LogUnavailable("too much waits for the disk", hint="send it again", retry_after=1))
            return
        self._bytes += size
        self._waiting.append((records, size, done))
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._start)

    async def close(self) -> None:
        """Return once everything submitted is answered."""
        while self._busy:
            await asyncio.sleep(0.001)
        self._groups.put(None)
        self._thread.join()

    def _start(self) -> None:
        """Hand the next group to the thread."""
        size = taken = 0
        for _, each, _ in self._waiting:
            size += each
            if taken and size > MAX_GROUP_BYTES:
                break
            taken += 1
        group, self._waiting = self._waiting[:taken], self._waiting[taken:]
        self._groups.put(group)

    def _finish(self, group: Sequence[_Work], error: LogUnavailable | None, seconds: float) -> None:
        """Answer a group; the next one is on its way before anybody is."""
        self._bytes -= sum(size for _, size, _ in group)
        if self._waiting:
            self._start()
        else:
            self._busy = False
        self._observe(seconds)
        for _, _, done in group:
            try:
                done(error)
            except Exception:  # one client's answer does not take others along
                logger.exception("stage=collect an answer failed")

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            began, problem = time.perf_counter(), None
            try:
                self._log.append([record for records, _, _ in group for record in records])
            except LogUnavailable as error:
                problem = error
            except Exception as error:
                logger.exception("stage=append the log failed")
                problem = LogUnavailable(
                    f"the log failed: {type(error).__name__}", hint="questlog doctor", retry_after=5
                )
            self._loop.call_soon_threadsafe(self._finish, group, problem, time.perf_counter() - began)
