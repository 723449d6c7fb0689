"""Shapes quarantined records with the current plan: those that fit now move to their table, in one atomic step.

Quarantine holds each record byte for byte, so the log may have been trimmed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from questlog.backfill import BackfillResult, Shown
from questlog.backfill.bounds import Bound
from questlog.lake.iceberg import IcebergTables
from questlog.lake.ledger import count_rows, read_ledger, uncount_rows
from questlog.lake.state import find_seen
from questlog.land.landed_time import with_landed_time
from questlog.land.lease import Lease
from questlog.log import Entry
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.shape import shape
from questlog.stopping import StopSignal


class QuarantineBackfill:
    """Backfills the project's own tables from quarantine, under the lander's lease."""

    def __init__(self, plan: Callable[[], Plan], catalog: Path, warehouse: Path) -> None:
        self._plan, self._catalog, self._warehouse = plan, catalog, warehouse

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> BackfillResult:
        """Backfill; return what was done, even if stopped early."""
        result, plan = BackfillResult(), self._plan()
        if not self._catalog.exists():
            return result
        with Lease(self._catalog) as lease:
            tables = IcebergTables(self._catalog, self._warehouse, epoch=lease.epoch)
            try:
                tables.adopt(plan)
                tables.version(QUARANTINE_TABLE)  # adopts what another engine may have committed
                query = "select path, rows from questlog_files where table_name = ? order by day, path"
                files = tables.state.execute(query, (QUARANTINE_TABLE,)).fetchall()
                total, read = sum(rows for _, rows in files), 0
                for path, rows in files:
                    if stop.is_set():
                        break
                    lease.heartbeat()
                    self._file(tables, plan, path, start, end, result)
                    read += rows
                    shown(result.records, read, total)
            finally:
                tables.close()
        return result

    def _file(
        self, tables: IcebergTables, plan: Plan, path: str, start: Bound, end: Bound, result: BackfillResult
    ) -> None:
        """1 read a file of quarantine  2 shape  3 move the rows that fit, with their ledger entries, in one step."""
        rows = tables.rows(QUARANTINE_TABLE, path)
        chosen = rows.filter(pc.and_(pc.is_valid(rows.column("record")), _within(rows, start, end)))
        chosen = chosen.sort_by([("log_partition", "ascending"), ("log_offset", "ascending")])
        entries = list(map(Entry, *(column.to_pylist() for column in _entry_columns(chosen))))
        shaped = shape(entries, plan, seen=lambda event_id: find_seen(tables.state, event_id))
        events = {name: table for name, table in shaped.tables.items() if name != QUARANTINE_TABLE and table.num_rows}
        moved = [_keys(table) for table in events.values()]
        moved_rows = pc.is_in(_places(rows), _places(chosen.filter(pc.is_in(_keys(chosen), _joined(moved)))))
        result.records += len(entries)
        result.duplicates += shaped.duplicates
        if not events:
            return
        now_ms = time.time_ns() // 1_000_000
        landed = {name: with_landed_time(table, now_ms) for name, table in events.items()}
        ledger = read_ledger(self._catalog, {}).rows
        counted = [row for name, table in landed.items() for row in count_rows(name, table, plan)]
        counted += uncount_rows(rows.filter(moved_rows), ledger)
        tables.transfer(landed, QUARANTINE_TABLE, {path: rows.filter(pc.invert(moved_rows))}, plan.version, counted)
        result.rows = {n: result.rows.get(n, 0) + (t.num_rows if (t := landed.get(n)) is not None else 0)
                     for n in {*result.rows, *landed}}  # fmt: skip
        result.cleared += pc.sum(moved_rows).as_py()


def _entry_columns(rows: pa.Table) -> list[pa.ChunkedArray]:
    received = pc.divide(rows.column("received_time").cast(pa.int64()), 1000)
    return [rows.column("log_partition"), rows.column("log_offset"), rows.column("record"), received]


def _places(rows: pa.Table) -> pa.Array:
    """Return the log position of each row's record, as one value."""
    return _pairs(rows.column("log_partition"), rows.column("log_offset"))


def _keys(rows: pa.Table) -> pa.Array:
    """Return the key of each row's record, id and received time: a client may reuse one of its ids later."""
    return _pairs(rows.column("received_time").cast(pa.int64()), rows.column("event_id"))


def _pairs(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.Array:
    return _joined(
        [pc.binary_join_element_wise(one.cast(pa.string()), other.cast(pa.string()), ":")],
    )


def _joined(parts: list[pa.Array]) -> pa.Array:
    chunks = [c for part in parts for c in (part.chunks if isinstance(part, pa.ChunkedArray) else [part])]
    return pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())


def _within(rows: pa.Table, start: Bound, end: Bound) -> pa.Array | pa.ChunkedArray:
    """Return which rows lie between the bounds."""
    received = pc.divide(rows.column("received_time").cast(pa.int64()), 1000)
    kept = pc.greater_equal(received, start.ms if start.ms is not None else 0)
    if end.ms is not None:
        kept = pc.and_(kept, pc.less(received, end.ms))
    for bound, beyond in ((start, pc.less), (end, pc.greater_equal)):
        for partition, offset in bound.offsets.items():
            here = pc.equal(rows.column("log_partition"), partition)
            kept = pc.and_not(kept, pc.and_(here, beyond(rows.column("log_offset"), offset)))
    return kept
