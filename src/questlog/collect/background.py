"""`ack="background"`: answers do not wait for the fsync. What is queued when the process is killed is lost."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Sequence

from questlog.errors import LogUnavailable
from questlog.log import Log

STOP_SECONDS = 10.0
_GROUP = 1000

logger = logging.getLogger("questlog.flask")


class BackgroundSender:
    """One thread that appends what is queued. A full queue refuses: nothing is dropped in silence."""

    def __init__(self, log: Log, *, max_waiting: int = 10_000) -> None:
        self._log = log
        self._queue: queue.Queue[Sequence[bytes] | None] = queue.Queue(max_waiting)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="questlog-background", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def put(self, records: Sequence[bytes]) -> None:
        """Queue *records*, or raise when the log has refused for so long that the queue is full."""
        try:
            self._queue.put_nowait(records)
        except queue.Full:
            raise LogUnavailable("the background queue is full", hint="questlog doctor", retry_after=5) from None

    def close(self) -> None:
        """Append what is queued, then stop; what the log refuses for `STOP_SECONDS` is lost, and told."""
        if not self._thread.is_alive():  # in a forked child it never ran
            return
        self._stop.set()
        with_room = threading.Thread(target=self._queue.put, args=(None,), daemon=True)
        with_room.start()
        self._thread.join(timeout=STOP_SECONDS)
        if self._thread.is_alive():
            logger.error("stage=append lost=%d the log refused until the process ended", self._queue.qsize())

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group = [self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            stopping = None in group
            self._append([record for each in group if each is not None for record in each])

    def _append(self, records: Sequence[bytes]) -> None:
        """Append *records*, trying again while the log refuses."""
        told = False
        while records:
            try:
                self._log.append(records)
                return
            except LogUnavailable as error:
                if not told:
                    logger.warning("stage=append waiting, events stay in memory: %s %s", error, error.hint)
                    told = True
                time.sleep(0.2 if self._stop.is_set() else min(1.0, error.retry_after or 1.0))
