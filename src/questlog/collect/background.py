"""`ack="background"`: answers do not wait for the fsync. What is queued when the process dies is lost."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Sequence

from questlog.errors import LogUnavailable
from questlog.log import Log

logger = logging.getLogger("questlog.collect")


class BackgroundSender:
    """One thread that appends what is queued; a full queue refuses instead of dropping."""

    def __init__(self, log: Log, *, max_waiting: int = 10_000) -> None:
        self._log = log
        self._queue: queue.Queue[Sequence[bytes] | None] = queue.Queue(max_waiting)
        self._thread = threading.Thread(target=self._run, name="questlog-background", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def alive(self) -> bool:
        """Return whether the thread runs; after a fork it does not."""
        return self._thread.is_alive()

    def put(self, records: Sequence[bytes]) -> None:
        """Queue *records*, or raise when the log has refused for so long that the queue is full."""
        try:
            self._queue.put_nowait(records)
        except queue.Full:
            raise LogUnavailable("the background queue is full", hint="questlog doctor", retry_after=5) from None

    def close(self) -> None:
        """Append what is queued, then stop."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=10)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group = [self._queue.get()]
            while len(group) < 1000 and not self._queue.empty():
                group.append(self._queue.get_nowait())
            stopping = None in group
            records = [record for each in group if each is not None for record in each]
            while records:
                try:
                    self._log.append(records)
                    break
                except LogUnavailable as error:
                    logger.warning("stage=append refused=%d error=%s", len(records), error)
                    time.sleep(error.retry_after or 1)
