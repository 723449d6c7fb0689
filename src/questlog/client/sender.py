"""The sending thread: batches, pauses between attempts, and the handling of receipts."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import Any, cast

from questlog.client.queue import OUTCOMES, Queue, Waiting
from questlog.client.transport import Answer, Transport, Unreachable
from questlog.errors import QuestlogError
from questlog.messages import library_logger

BATCH_EVENTS = 500
BATCH_BYTES = 512 << 10
FIRST_WAIT, LONGEST_WAIT = 0.25, 60.0
_POLL_SECONDS = 0.2  # how often to check whether the sending process is done
_END_SECONDS = 5.0
_WHAT_TO_DO = {
    401: "the key is wrong or revoked: questlog key list shows the valid ones",
    403: "the key may not be used from here: questlog key list",
    404: "there is no collector at this URL: check it",
}

logger = library_logger("questlog.client")


@dataclass(frozen=True, slots=True)
class Problem:
    """An event that the collector quarantined (it is kept there) or rejected (it is not kept), and why."""

    event: dict[str, Any]
    outcome: str
    reason: str = ""
    field: str = ""
    detail: str = ""


def log_problem(problem: Problem) -> None:
    """Log a problem without the event's fields."""
    event = problem.event
    logger.warning(
        "event_type=%s event_id=%s %s=%s field=%s %s", event.get("event_type"), event.get("event_id"),
        problem.outcome, problem.reason, problem.field, problem.detail,
    )  # fmt: skip


class Sender:
    """The sending thread, started on first use; a forked child starts its own."""

    def __init__(
        self, queue: Queue, transport: Transport, on_problem: Callable[[Problem], object], flush_seconds: float
    ) -> None:
        self._queue, self._transport, self._on_problem = queue, transport, on_problem
        self._flush_seconds = flush_seconds
        self._chance = random.Random()
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._settled, self._stopped = threading.Event(), threading.Event()
        self._most, self._failures = BATCH_EVENTS, 0
        self.error = ""

    def wake(self) -> None:
        """Notify the thread that there is something to send; start it if necessary."""
        if self._pid != os.getpid():
            self._transport.forget()
            self._chance = random.Random()
            self._reset()
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._stopped.is_set():
                    # atexit does not suffice: processes forked by multiprocessing exit without it
                    self._finalize = Finalize(None, self._end, exitpriority=0)
                    self._thread = threading.Thread(target=self._run, name="questlog-client", daemon=True)
                    self._thread.start()
        self._wake.set()

    def hurry(self) -> None:
        """Send without gathering or backing off; only a Retry-After of the collector is still respected."""
        self._hurry.set()
        self.wake()

    def wait_until_settled(self, seconds: float) -> None:
        """Return when a batch is settled, or after *seconds*."""
        self._settled.wait(seconds)
        self._settled.clear()

    def stop(self) -> None:
        """End the thread, even during a request: the events stay queued, and their ids identify repeats."""
        with self._lock:
            self._stopped.set()
            thread = self._thread
        if thread is None or self._pid != os.getpid():
            return
        self._hurry.set()
        self._wake.set()
        self._transport.abort()
        if thread is not threading.current_thread():
            thread.join(_END_SECONDS)
        self._finalize.cancel()

    def _end(self) -> None:
        """Flush as the process ends."""
        deadline = time.monotonic() + _END_SECONDS
        with contextlib.suppress(QuestlogError):  # the events wait for the next start
            through = self._queue.last()
            while time.monotonic() < deadline and not self.error and self._queue.has_up_to(through):
                self.hurry()
                self.wait_until_settled(0.05)
        self.stop()
        self._queue.close()

    # -- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            if not self._stopped.is_set():
                self._hurry.wait(self._flush_seconds)
            self._wake.clear()
            self._hurry.clear()
            try:
                self._drain()
            except Exception as error:  # e.g. a full or failing disk: nothing is lost, and it may pass
                self._report(f"sending paused: {error}")
                self._queue.give_turn()
                self._pause(None)
                self._wake.set()
        self._transport.close()

    def _drain(self) -> None:
        """Send until the queue is empty; while another process sends, wait for what it leaves."""
        while not self._stopped.is_set():
            if not self._queue.take_turn():
                if not self._queue.last():
                    return
                self._hurry.wait(_POLL_SECONDS)
                self._hurry.clear()
                continue
            batch = self._queue.head(self._most, BATCH_BYTES)
            if not batch:
                self._queue.give_turn()
                return
            self._send(batch)
        self._queue.give_turn()

    def _send(self, batch: Sequence[Waiting]) -> None:
        """Try once. Events without a receipt stay queued."""
        try:
            answer = self._transport.post(_lines(batch))
        except Unreachable as error:
            if not self._stopped.is_set():
                self._fail(f"no answer from {self._transport.url}: {error}; events are kept on disk", None)
            return
        receipts = _receipts(answer, len(batch)) if answer.status in (200, 202) else None
        if receipts is not None:
            self._settle(batch, receipts)
        elif answer.status == 413:
            self._split(batch, answer)
        else:
            self._fail(_explain(self._transport.url, answer), answer.retry_after)

    def _settle(self, batch: Sequence[Waiting], receipts: Sequence[dict[str, Any]]) -> None:
        """Report problems, then remove the events: a crash in between reports twice rather than never."""
        counts: Counter[str] = Counter()
        for waiting, receipt in zip(batch, receipts, strict=True):
            outcome = receipt["outcome"]
            counts[outcome] += 1
            if outcome in ("quarantined", "rejected"):
                texts = [str(receipt.get(name) or "") for name in ("reason", "field", "detail")]
                self._report_problem(Problem(json.loads(waiting.body), outcome, *texts))
        self._most = min(BATCH_EVENTS, self._most + max(1, self._most // 10))
        self._failures = 0
        if self.error:  # cleared before a flush can see an empty queue and return
            logger.warning("sending resumed")
            self.error = ""
        self._queue.settle([waiting.sequence for waiting in batch], counts)
        self._settled.set()

    def _split(self, batch: Sequence[Waiting], answer: Answer) -> None:
        """Send fewer events at once; reject a single event that is too large."""
        if len(batch) > 1:
            self._most = len(batch) // 2
            return
        detail = answer.body[:500].decode("utf-8", "replace")
        self._settle(batch, [{"outcome": "rejected", "reason": "too_large", "detail": detail}])

    def _report_problem(self, problem: Problem) -> None:
        try:
            self._on_problem(problem)
        except Exception:
            logger.exception("on_problem failed for event_id=%s", problem.event.get("event_id"))

    def _fail(self, message: str, retry_after: float | None) -> None:
        self._report(message)
        self._queue.give_turn()  # another process may reach the collector or have a valid key
        self._pause(retry_after)

    def _report(self, message: str) -> None:
        """Log each new error once."""
        if message != self.error:
            logger.warning("%s", message)
            self.error = message

    def _pause(self, retry_after: float | None) -> None:
        """Back off exponentially with jitter, so that a thousand clients do not return at the same moment."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**self._failures)
        self._failures = min(self._failures + 1, 30)
        pause = longest * self._chance.uniform(0.5, 1.0)
        if retry_after is None:
            self._hurry.clear()
            self._hurry.wait(pause)
            return
        # Even a flush respects Retry-After.
        self._stopped.wait(max(pause, retry_after * self._chance.uniform(1.0, 1.1)))


def _lines(batch: Sequence[Waiting]) -> bytes:
    """Return the events as lines, each with its sequence number and the time of this attempt."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()
    return b"\n".join(b'%b,"sequence":%d,"sent_time":"%b"}' % (body[:-1], sequence, now) for sequence, body in batch)


def _receipts(answer: Answer, events: int) -> list[dict[str, Any]] | None:
    """Return a receipt per event, or None if the answer is not a collector's, e.g. a captive portal's 200."""
    try:
        receipts = json.loads(answer.body)["receipts"]
        fits = len(receipts) == events and all(receipt["outcome"] in OUTCOMES for receipt in receipts)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return cast("list[dict[str, Any]]", receipts) if fits else None


def _explain(url: str, answer: Answer) -> str:
    """Return one sentence with the answer and what to do."""
    text = " ".join(answer.body[:300].decode("utf-8", "replace").split())
    if answer.status in (200, 202):
        return f"{url} answered without receipts, so it is not a collector; events are kept on disk: {text[:100]}"
    if answer.location:
        return f"{url} answered {answer.status}: use {answer.location} as the URL; events are kept on disk"
    todo = _WHAT_TO_DO.get(answer.status, "events are kept on disk")
    return f"{url} answered {answer.status}: {todo} ({text})"
