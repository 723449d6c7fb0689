"""`ack="background"`: responses do not wait for the fsync. Events still queued when the process is killed are lost."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from multiprocessing.util import Finalize

from questlog.errors import LogUnavailable
from questlog.log import Log
from questlog.log.group import Waiter
from questlog.log.worker import BackgroundCommit
from questlog.messages import library_logger
from questlog.web.batch import EventBatch

GATHER_SECONDS = 0.05
"""How long events gather, so that a busy server pays for twenty commits a second and not for one per request."""
STOP_SECONDS = 10.0
_MAX_GROUP_BYTES = 4 << 20

logger = library_logger("questlog.flask")


class BackgroundSender:
    """Queues batches and appends them in a dedicated thread. A full queue refuses events, and counts them."""

    def __init__(self, log: Log, *, max_waiting: int = 10_000, max_bytes: int = 64 << 20) -> None:
        self.refused = 0
        self._log = log
        self.commits = BackgroundCommit(
            self._append_group,
            name="questlog-background",
            max_size=_MAX_GROUP_BYTES,
            max_waiting=max_waiting,
            max_waiting_size=max_bytes,
            gather_seconds=GATHER_SECONDS,
        )
        # atexit is not enough: a process forked by multiprocessing, such as a Granian worker, ends without it
        self._finalize = Finalize(None, self.close, exitpriority=0)

    def put(self, batch: EventBatch) -> None:
        """Queue a batch. Raises `LogUnavailable` if the log has refused for so long that the queue is full.

        While the process ends, the batch is appended here and now, because nothing would append it later.
        """
        try:
            is_queued = self.commits.put(batch, batch.size)
        except LogUnavailable:
            self.refused += len(batch.bodies)
            raise
        if not is_queued:
            self._log.append(batch.records())

    def close(self) -> None:
        """Append what is queued, then stop. What the log refuses for `STOP_SECONDS` is lost, and logged."""
        is_flushed = self.commits.close(STOP_SECONDS)
        self._finalize.cancel()
        if not is_flushed:
            logger.error("stage=append lost=%d the log refused until the process ended", self.commits.waiting)

    def _append_group(self, group: Sequence[Waiter]) -> None:
        records: list[bytes] = []
        for waiter in group:
            try:
                records += waiter.work.records()
            except Exception:  # a batch that cannot be encoded must not affect the others
                logger.exception("stage=append lost=%d", len(waiter.work.bodies))
        self._append(records)

    def _append(self, records: Sequence[bytes]) -> None:
        """Append *records*, and retry while the log refuses."""
        is_waiting = False
        while records:
            try:
                self._log.append(records)
                break
            except LogUnavailable as error:
                if not is_waiting:
                    logger.warning("stage=append waiting, events stay in memory: %s %s", error, error.hint)
                    is_waiting = True
                if self.commits.stopping.wait(min(1.0, error.retry_after or 1.0)):
                    time.sleep(0.1)  # the process is ending: retry often while there is time
            except Exception:  # a retry would not help: continue with what came later
                logger.exception("stage=append lost=%d", len(records))
                break
        if is_waiting:
            logger.warning("stage=append the log accepts events again, refused so far=%d", self.refused)


def end_on_sigterm() -> None:
    """Make SIGTERM end the process as Ctrl-C does, unless it is handled already: by default the queue would be lost."""
    with contextlib.suppress(ValueError):  # only the main thread may set a handler
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
