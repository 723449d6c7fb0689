"""The embedded lander: reads the log, shapes, commits each table with its position, progress last."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from questlog.lake.iceberg import IcebergTables
from questlog.lake.state import find_seen, read_state, save_progress, save_seen
from questlog.land import Landed, StopSignal
from questlog.land.lease import Lease
from questlog.log import Batch, Log, Position, merge
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import QUARANTINE, shape

logger = logging.getLogger("questlog.land")


class LandingLoop:
    """Keeps the contract of `Lander` for the embedded profile. Use as a context: it holds the lease."""

    def __init__(
        self,
        log: Log,
        plan: Callable[[], Plan],
        catalog_path: Path,
        warehouse: Path,
        *,
        batch_records: int = 50_000,
        land_seconds: float = 2.0,
        keep_log_hours: float = 24.0,
    ) -> None:
        self._log, self._plan = log, plan
        self._catalog_path, self._warehouse = catalog_path, warehouse
        self._batch_records, self._land_seconds = batch_records, land_seconds
        self._keep_log_ms = int(keep_log_hours * 3_600_000)
        self._stack = ExitStack()

    def __enter__(self) -> LandingLoop:
        self._lease = self._stack.enter_context(Lease(self._catalog_path))
        self._tables = IcebergTables(self._catalog_path, self._warehouse, epoch=self._lease.epoch)
        self._stack.callback(self._tables.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def _db(self) -> sqlite3.Connection:
        return self._tables.state

    def step(self) -> Landed:
        """Land one batch.  1 read  2 shape  3 ids  4 commit each table  5 commit progress, last."""
        state = read_state(self._db)
        positions = {name: table.position for name, table in state.tables.items()}
        plan, until = self._unfinished(positions, state.progress) or (self._plan(), None)
        batch = self._log.read(state.progress, self._batch_records)
        if until is not None:
            batch = _until(batch, until)
        if not batch:
            return Landed()
        self._remember(plan)
        held = {name: merge(position, state.progress) for name, position in positions.items()}
        shaped = shape(batch.entries, plan, held=held, seen=partial(find_seen, self._db), gaps=batch.gaps)
        if shaped.seen:
            save_seen(self._db, shaped.seen, self._lease.epoch)
        for name, rows in shaped.tables.items():
            self._tables.commit(name, rows, batch.through, plan.version)
        landed = Landed(len(batch.entries), {n: t.num_rows for n, t in shaped.tables.items()}, shaped.duplicates)
        save_progress(self._db, batch.through, _count(state.counts, landed, shaped.held), self._lease.epoch)
        return landed

    def _unfinished(self, positions: dict[str, Position], progress: Position) -> tuple[Plan, Position] | None:
        """Return the plan and end of a half-landed batch: it is finished as it was begun."""
        for name, position in positions.items():
            if merge(position, progress) != dict(progress):
                version = read_state(self._db).tables[name].plan_version
                row = self._db.execute("select text from questlog_plans where version = ?", (version,)).fetchone()
                if row is not None:
                    return parse_plan(row[0]), position
        return None

    def _remember(self, plan: Plan) -> None:
        self._db.execute("insert or ignore into questlog_plans values (?, ?)", (plan.version, plan.text))

    def drain(self) -> Landed:
        """Land everything logged so far, then return."""
        goal, total = self._log.end(), Landed()
        while True:
            landed = self.step()
            total += landed
            self._lease.beat()
            progress = read_state(self._db).progress
            if not landed.records and all(progress.get(p, 0) >= o for p, o in goal.items()):
                return total
            if not landed.records and merge(progress, goal) != dict(progress):
                return total

    def run(self, stop: StopSignal) -> None:
        """Land until told to stop; what is logged when it stops is landed."""
        while not stop.is_set():
            started = time.monotonic()
            self._lease.beat()
            landed = self.step()
            if landed.records:
                logger.info(
                    "stage=land records=%d quarantined=%d duplicate=%d ms=%d",
                    landed.records, landed.rows.get(QUARANTINE, 0), landed.duplicates,
                    (time.monotonic() - started) * 1000,
                )  # fmt: skip
                now_ms = time.time_ns() // 1_000_000
                self._log.trim(read_state(self._db).progress, now_ms - self._keep_log_ms)
            if landed.records < self._batch_records:
                stop.wait(self._land_seconds)
        self.drain()


def _until(batch: Batch, until: Position) -> Batch:
    entries = [e for e in batch.entries if e.offset < until.get(e.partition, 0)]
    gaps = tuple(g for g in batch.gaps if g.first < until.get(g.partition, 0))
    return Batch(entries, until, gaps)


def _count(before: Mapping[str, int], landed: Landed, held: int) -> dict[str, int]:
    """Return the ledger's counts after this batch; *held* rows were counted nowhere yet but are landed."""
    counts = dict(before)
    quarantined = landed.rows.get(QUARANTINE, 0)
    counts["read"] = counts.get("read", 0) + landed.records
    counts["duplicate"] = counts.get("duplicate", 0) + landed.duplicates
    counts["quarantined"] = counts.get("quarantined", 0) + quarantined
    counts["landed"] = counts.get("landed", 0) + landed.records - landed.duplicates - quarantined
    return counts
