"""The embedded lander: reads the log, shapes records, commits each table with its position, the checkpoint last."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from questlog.errors import LakeUnavailable, LogUnavailable, PlanError
from questlog.lake.iceberg import IcebergTables
from questlog.lake.maintenance import Maintenance
from questlog.lake.state import (
    DAMAGED,
    DUPLICATE,
    LedgerRow,
    find_seen,
    read_checkpoint,
    read_positions,
    save_checkpoint,
    save_seen,
    unavailable,
)
from questlog.land import Landed, Shown
from questlog.land.landed_time import with_landed_time
from questlog.land.lease import Lease
from questlog.land.reader import read_batch
from questlog.log import LogReader, Position, merge
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.load import parse_plan
from questlog.shape import shape
from questlog.stopping import StopSignal

POLL_SECONDS = 0.2
"""How often an idle lander checks for new events, and a waiting one for a full batch."""
WAIT_SECONDS = 1.0
"""How long a lander waits after an error before it retries."""
STOP_SECONDS = 10.0
"""The maximum time that a lander keeps landing after a stop signal; the rest stays in the log."""
TRIM_SECONDS = 60.0
_HOUR_MS = 3_600_000

logger = logging.getLogger("questlog.land")


class LandingLoop:
    """Implements `Lander` for the embedded profile. Use as a context manager, which holds the lease."""

    def __init__(
        self,
        log: LogReader,
        plan: Callable[[], Plan],
        catalog_path: Path,
        warehouse: Path,
        *,
        batch_records: int = 50_000,
        land_seconds: float = 2.0,
        keep_log_hours: float = 24.0,
        keep_from: Callable[[], Position | None] = lambda: None,
    ) -> None:
        self._log, self._plan, self._keep_from = log, plan, keep_from
        self._catalog_path, self._warehouse = catalog_path, warehouse
        self._batch_records, self._land_seconds = batch_records, land_seconds
        self._keep_log_ms = int(keep_log_hours * _HOUR_MS)
        self._stack = ExitStack()
        self._trimmed = -TRIM_SECONDS
        self._error = ""

    def __enter__(self) -> LandingLoop:
        """Take the lease; refuse a plan to which the tables cannot evolve."""
        with ExitStack() as stack:
            self._lease = stack.enter_context(Lease(self._catalog_path))
            self._tables = IcebergTables(self._catalog_path, self._warehouse, epoch=self._lease.epoch)
            stack.callback(self._tables.close)
            self._maintenance = Maintenance(self._tables, self._lease.heartbeat)
            self._tables.adopt(self._plan())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _db(self) -> sqlite3.Connection:
        return self._tables.state

    def heartbeat(self) -> None:
        """Show that this lander is alive while it does not land; raise `LanderFenced` if it was replaced."""
        self._lease.heartbeat()

    def step(self) -> Landed:
        """Land one batch, or raise `LakeUnavailable` and leave the rest of it for the next step."""
        try:
            return self._land()
        except sqlite3.Error as error:
            raise unavailable(self._catalog_path, error, self._catalog_path.parent) from error

    def _land(self) -> Landed:
        """1 read  2 shape  3 store ids  4 commit each table  5 commit the checkpoint, last."""
        self._lease.heartbeat()
        checkpoint, positions = read_checkpoint(self._db), read_positions(self._db)
        plan, until = self._unfinished(positions, checkpoint) or (self._plan(), None)
        self._tables.adopt(plan)
        batch = read_batch(self._log, checkpoint, self._batch_records, until)
        if not batch:
            return Landed()
        self._remember(plan)
        committed = {name: merge(position, checkpoint) for name, (position, _) in positions.items()}
        now_ms = time.time_ns() // 1_000_000
        shaped = shape(batch.entries, plan, committed=committed, seen=partial(find_seen, self._db), gaps=batch.gaps)
        if shaped.seen:
            newest = min(now_ms, max(e.received_ms for e in batch.entries))
            save_seen(self._db, shaped.seen, newest, self._lease.epoch)
            self._maintenance.remembered(len(shaped.seen))
        for name, rows in shaped.tables.items():
            self._lease.heartbeat()
            self._tables.commit(name, with_landed_time(rows, now_ms), batch.through, plan.version)
        lost = sum(gap.until - gap.first for gap in batch.gaps)
        tables = {name: event.table for name, event in plan.events.items()}
        counted = [LedgerRow(DUPLICATE, tables.get(t, ""), t, "", n) for t, n in shaped.repeated.items()]
        counted.append(LedgerRow(DAMAGED, "", "", "", lost))
        save_checkpoint(self._db, batch.through, counted, self._lease.epoch)
        if batch.entries and shaped.seen:
            oldest = min(now_ms, min(e.received_ms for e in batch.entries))  # a time in the future counts as now
            self._maintenance.forget_ids(oldest - int((plan.dedup_hours + 1) * _HOUR_MS))
        return Landed(len(batch.entries), {n: t.num_rows for n, t in shaped.tables.items()}, shaped.duplicates)

    def _unfinished(
        self, positions: Mapping[str, tuple[Position, str]], checkpoint: Position
    ) -> tuple[Plan, Position] | None:
        """Return the plan and end of a half-landed batch, which must be completed as it was begun."""
        for position, version in positions.values():
            if not _covers(checkpoint, position):
                row = self._db.execute("select text from questlog_plans where version = ?", (version,)).fetchone()
                if row is not None:
                    return parse_plan(row[0]), merge(checkpoint, position)
        return None

    def _remember(self, plan: Plan) -> None:
        self._db.execute("insert or ignore into questlog_plans values (?, ?)", (plan.version, plan.text))

    def drain(self, stop: StopSignal | None = None, shown: Shown | None = None) -> Landed:
        """Land everything logged so far. If *stop* is set, return after the current batch.

        *shown* is called after each batch with the number of records landed and the number to land.
        """
        goal, total, waiting = self._log.end(), Landed(), self._waiting()
        while True:
            before = read_checkpoint(self._db)
            landed = self.step()
            self._maintain()
            total += landed
            if shown is not None:
                shown(total.records, waiting)
            checkpoint = read_checkpoint(self._db)
            if checkpoint == before or _covers(checkpoint, goal) or (stop is not None and stop.is_set()):
                self._trim(checkpoint)
                return total

    def run(self, stop: StopSignal) -> None:
        """Land until asked to stop, and then the remaining records for at most `STOP_SECONDS`.

        An event that arrives after a pause is landed at once. Under load a batch is landed every `land_seconds`, or
        when it is full. Records that cannot be landed now (full disk, incompatible plan) stay in the log.
        """
        while not stop.is_set():
            landed = self._try_step()
            if landed is None:
                stop.wait(WAIT_SECONDS)
            elif landed.records:
                self._maintain()
                self._trim(read_checkpoint(self._db))
                self._wait_for_batch(stop)
            else:
                self._idle(stop)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            landed = self._try_step()
            if landed is None or not landed.records:
                return

    def _try_step(self) -> Landed | None:
        """Land one batch; if it cannot be landed now, log each new error once and return None."""
        started = time.monotonic()
        try:
            landed = self.step()
        except (LakeUnavailable, LogUnavailable, PlanError) as error:
            if str(error) != self._error:
                self._error = str(error)
                logger.error("stage=land waiting, events stay in the log: %s %s", error, error.hint)
            self._lease.heartbeat()
            return None
        if self._error:
            logger.info("stage=land resumed")
            self._error = ""
        if landed.records:
            logger.info(
                "stage=land records=%d quarantined=%d duplicate=%d ms=%d",
                landed.records, landed.rows.get(QUARANTINE_TABLE, 0), landed.duplicates,
                (time.monotonic() - started) * 1000,
            )  # fmt: skip
        return landed

    def _maintain(self) -> bool:
        """Do one step of maintenance; it is postponed if the disk is full."""
        try:
            return self._maintenance.step()
        except (LakeUnavailable, sqlite3.Error, OSError) as error:
            logger.warning("stage=maintenance postponed: %s", error)
            return False

    def _wait_for_batch(self, stop: StopSignal) -> None:
        """Wait for `land_seconds`, or until a full batch is waiting."""
        until = time.monotonic() + self._land_seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._waiting() >= self._batch_records:
                return
            stop.wait(min(left, POLL_SECONDS))

    def _idle(self, stop: StopSignal) -> None:
        """Wait until there is something to land; do maintenance in the meantime."""
        while not stop.is_set() and not self._waiting():
            self._lease.heartbeat()
            if not self._maintain():
                stop.wait(POLL_SECONDS)

    def _waiting(self) -> int:
        """Return how many records are logged but not landed."""
        checkpoint = read_checkpoint(self._db)
        return sum(max(0, offset - checkpoint.get(partition, 0)) for partition, offset in self._log.end().items())

    def _trim(self, checkpoint: Position) -> None:
        """Trim landed records that are older than `keep_log_hours`; at most once a minute, it costs an fsync.

        Records that a promotion has yet to forward to the cluster are kept, and all of them for a while after the clock
        was set.
        """
        if time.monotonic() - self._trimmed >= TRIM_SECONDS and not self._maintenance.clock_was_set():
            self._trimmed = time.monotonic()
            if (kept := self._keep_from()) is not None:
                checkpoint = {p: min(offset, kept.get(p, 0)) for p, offset in checkpoint.items()}
            self._log.trim(checkpoint, time.time_ns() // 1_000_000 - self._keep_log_ms)


def _covers(position: Position, other: Position) -> bool:
    """Return whether *position* has reached *other* in every partition."""
    return all(position.get(partition, 0) >= offset for partition, offset in other.items())
