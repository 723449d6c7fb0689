"""`ack="background"`: answers do not wait for the fsync. What is queued when the process is killed is lost."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing.util import Finalize

from questlog.errors import LogUnavailable
from questlog.log import Log
from questlog.web.batch import EventBatch

GATHER_SECONDS = 0.05
STOP_SECONDS = 10.0
_GROUP = 5000

logger = logging.getLogger("questlog.flask")


class BackgroundSender:
    """One thread that appends what is queued. A full queue refuses and counts: nothing is dropped in silence.

    Events gather for `GATHER_SECONDS`, so that a busy server pays for twenty commits a second and not for one
    a request.
    """

    def __init__(self, log: Log, *, max_waiting: int = 10_000, max_bytes: int = 64 << 20) -> None:
        self.max_waiting, self.max_bytes = max_waiting, max_bytes
        self.refused = 0
        self._log = log
        self._lock = threading.Lock()
        self._waiting: list[EventBatch] = []
        self._bytes = 0
        self._idle = True
        self._closed = False
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="questlog-background", daemon=True)
        self._thread.start()
        # not atexit alone: a process that multiprocessing forked, such as a Granian worker, ends without it
        self._finalize = Finalize(None, self.close, exitpriority=0)

    def put(self, pending: EventBatch) -> None:
        """Queue events, or raise when the log has refused for so long that the queue is full.

        Once the process ends, they are appended here and now: nobody would come back for them.
        """
        with self._lock:
            if not self._closed:
                if len(self._waiting) >= self.max_waiting or self._bytes > self.max_bytes:
                    self.refused += len(pending.bodies)
                    raise LogUnavailable(
                        f"{len(self._waiting)} requests wait for the log, and more may not",
                        hint="questlog doctor",
                        retry_after=5,
                    )
                self._waiting.append(pending)
                self._bytes += pending.size
                if self._idle:
                    self._idle = False
                    self._wake.set()
                return
        self._log.append(pending.records())

    def close(self) -> None:
        """Append what is queued, then stop; what the log refuses for `STOP_SECONDS` is lost, and told."""
        if not self._thread.is_alive():  # in a forked child it never ran
            return
        with self._lock:
            self._closed = True
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=STOP_SECONDS)
        self._finalize.cancel()
        if self._thread.is_alive():
            logger.error("stage=append lost=%d the log refused until the process ended", len(self._waiting))

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._stop.wait(GATHER_SECONDS)
            group = self._waiting[:_GROUP]
            size = sum(pending.size for pending in group)  # before they are judged: as it was counted
            self._append(self._records(group))
            with self._lock:
                del self._waiting[: len(group)]
                self._bytes -= size
                if self._waiting:
                    continue
                if self._closed:
                    return
                self._idle = True
                self._wake.clear()

    def _records(self, group: Sequence[EventBatch]) -> list[bytes]:
        records: list[bytes] = []
        for pending in group:
            try:
                records += pending.records()
            except Exception:  # what cannot be encoded does not take others along
                logger.exception("stage=append lost=%d", len(pending.bodies))
        return records

    def _append(self, records: Sequence[bytes]) -> None:
        """Append *records*, trying again while the log refuses."""
        told = False
        while records:
            try:
                self._log.append(records)
                break
            except LogUnavailable as error:
                if not told:
                    logger.warning("stage=append waiting, events stay in memory: %s %s", error, error.hint)
                    told = True
                if self._stop.wait(min(1.0, error.retry_after or 1.0)):
                    time.sleep(0.1)  # the process ends: try often while there is time
            except Exception:  # nothing that can be tried again: go on with what comes after it
                logger.exception("stage=append lost=%d", len(records))
                break
        if told:
            logger.warning("stage=append the log accepts again, refused so far=%d", self.refused)


def end_on_sigterm() -> None:
    """Let SIGTERM end the process as Ctrl-C does where nobody handles it: by default the queue would go with it."""
    with contextlib.suppress(ValueError):  # only the main thread may
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
