"""The embedded lander: reads the log, shapes, commits each table with its position, checkpoint last."""

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
from questlog.land import Landed, StopSignal
from questlog.land.landed_time import with_landed_time
from questlog.land.lease import Lease
from questlog.land.reader import read_batch
from questlog.log import LogReader, Position, merge
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import QUARANTINE, shape

POLL_SECONDS = 0.2
"""How soon an idle lander sees a new event, and a resting one a backlog."""
WAIT_SECONDS = 1.0
"""How long a lander in trouble waits before it tries again."""
STOP_SECONDS = 10.0
"""A lander told to stop lands what is logged for so long at most; the rest waits in the log."""
TRIM_SECONDS = 60.0
_HOUR_MS = 3_600_000

logger = logging.getLogger("questlog.land")


class LandingLoop:
    """Keeps the contract of `Lander` for the embedded profile. Use as a context: it holds the lease."""

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
        self._trouble = ""

    def __enter__(self) -> LandingLoop:
        """Take the lease; refuse at once a plan that the tables cannot follow."""
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
        """Show that this lander lives while it does not land; raise `LanderFenced` if it was replaced."""
        self._lease.heartbeat()

    def step(self) -> Landed:
        """Land one batch, or raise `LakeUnavailable` and leave the rest of it for the next step."""
        try:
            return self._land()
        except sqlite3.Error as error:
            raise unavailable(self._catalog_path, error, self._catalog_path.parent) from error

    def _land(self) -> Landed:
        """1 read  2 shape  3 ids  4 commit each table  5 commit checkpoint, last."""
        self._lease.heartbeat()
        checkpoint, positions = read_checkpoint(self._db), read_positions(self._db)
        plan, until = self._unfinished(positions, checkpoint) or (self._plan(), None)
        self._tables.adopt(plan)
        batch = read_batch(self._log, checkpoint, self._batch_records, until)
        if not batch:
            return Landed()
        self._remember(plan)
        held = {name: merge(position, checkpoint) for name, (position, _) in positions.items()}
        shaped = shape(batch.entries, plan, committed=held, seen=partial(find_seen, self._db), gaps=batch.gaps)
        if shaped.seen:
            save_seen(self._db, shaped.seen, max(e.received_ms for e in batch.entries), self._lease.epoch)
            self._maintenance.remembered(len(shaped.seen))
        now_ms = time.time_ns() // 1_000_000
        for name, rows in shaped.tables.items():
            self._lease.heartbeat()
            self._tables.commit(name, with_landed_time(rows, now_ms), batch.through, plan.version)
        lost = sum(gap.until - gap.first for gap in batch.gaps)
        tables = {name: event.table for name, event in plan.events.items()}
        counted = [LedgerRow(DUPLICATE, tables.get(t, ""), t, "", n) for t, n in shaped.repeated.items()]
        counted.append(LedgerRow(DAMAGED, "", "", "", lost))
        save_checkpoint(self._db, batch.through, counted, self._lease.epoch)
        if batch.entries and shaped.seen:
            oldest = min(entry.received_ms for entry in batch.entries)
            self._maintenance.forget_ids(oldest - int((plan.dedup_hours + 1) * _HOUR_MS))
        return Landed(len(batch.entries), {n: t.num_rows for n, t in shaped.tables.items()}, shaped.duplicates)

    def _unfinished(
        self, positions: Mapping[str, tuple[Position, str]], checkpoint: Position
    ) -> tuple[Plan, Position] | None:
        """Return the plan and end of a half-landed batch: it is finished as it was begun."""
        for position, version in positions.values():
            if not _covers(checkpoint, position):
                row = self._db.execute("select text from questlog_plans where version = ?", (version,)).fetchone()
                if row is not None:
                    return parse_plan(row[0]), merge(checkpoint, position)
        return None

    def _remember(self, plan: Plan) -> None:
        self._db.execute("insert or ignore into questlog_plans values (?, ?)", (plan.version, plan.text))

    def drain(self, stop: StopSignal | None = None, shown: Callable[[int, int], None] | None = None) -> Landed:
        """Land everything logged so far, or until told to stop, then return.

        *shown* is told after each batch how many records are landed, and of how many.
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
        """Land until told to stop; what is logged when it stops is landed if that takes no longer than a moment.

        An event that comes after quiet is landed at once; under load batches come `land_seconds` apart or
        when one is full. What cannot be landed now (a full disk, a plan the tables cannot follow) waits.
        """
        while not stop.is_set():
            landed = self._try_step()
            if landed is None:
                stop.wait(WAIT_SECONDS)
            elif landed.records:
                self._maintain()
                self._trim(read_checkpoint(self._db))
                self._rest(stop)
            else:
                self._idle(stop)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            landed = self._try_step()
            if landed is None or not landed.records:
                return

    def _try_step(self) -> Landed | None:
        """Land one batch; None, and one line in the log per trouble, if it cannot be landed now."""
        started = time.monotonic()
        try:
            landed = self.step()
        except (LakeUnavailable, LogUnavailable, PlanError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                logger.error("stage=land waiting, events stay in the log: %s %s", error, error.hint)
            self._lease.heartbeat()
            return None
        if self._trouble:
            logger.info("stage=land goes on")
            self._trouble = ""
        if landed.records:
            logger.info(
                "stage=land records=%d quarantined=%d duplicate=%d ms=%d",
                landed.records, landed.rows.get(QUARANTINE, 0), landed.duplicates,
                (time.monotonic() - started) * 1000,
            )  # fmt: skip
        return landed

    def _maintain(self) -> bool:
        """Do a piece of maintenance; if the disk is full it can wait."""
        try:
            return self._maintenance.step()
        except (LakeUnavailable, sqlite3.Error, OSError) as error:
            logger.warning("stage=maintenance put off: %s", error)
            return False

    def _rest(self, stop: StopSignal) -> None:
        """Let a batch gather; a full one ends the rest."""
        until = time.monotonic() + self._land_seconds
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if self._waiting() >= self._batch_records:
                return
            stop.wait(min(left, POLL_SECONDS))

    def _idle(self, stop: StopSignal) -> None:
        """Return when there is something to land."""
        while not stop.is_set() and not self._waiting():
            self._lease.heartbeat()
            if not self._maintain():
                stop.wait(POLL_SECONDS)

    def _waiting(self) -> int:
        """Return how many records are logged and not landed."""
        checkpoint = read_checkpoint(self._db)
        return sum(max(0, offset - checkpoint.get(partition, 0)) for partition, offset in self._log.end().items())

    def _trim(self, checkpoint: Position) -> None:
        """Let the log forget what is landed and older than it must keep; seldom, it costs an fsync.

        What somebody else needs still, such as a cluster that the events are promised to, stays.
        """
        if time.monotonic() - self._trimmed >= TRIM_SECONDS:
            self._trimmed = time.monotonic()
            if (kept := self._keep_from()) is not None:
                checkpoint = {p: min(offset, kept.get(p, 0)) for p, offset in checkpoint.items()}
            self._log.trim(checkpoint, time.time_ns() // 1_000_000 - self._keep_log_ms)


def _covers(position: Position, other: Position) -> bool:
    """Return whether *position* has reached *other* in every partition."""
    return all(position.get(partition, 0) >= offset for partition, offset in other.items())
