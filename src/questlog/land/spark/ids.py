"""Ids that clients chose, within the plan's window: which came before, and where."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

SEEN = pa.schema([("event_id", pa.string()), ("part", pa.int32()), ("offset", pa.int64()), ("received_ms", pa.int64())])
DAY_MS = 86_400_000
IDS_DAY = (f"truncate[{DAY_MS}]", "received_ms")
"""How the lander's table of them is partitioned: a day that is over goes with all its files, and no row is written."""
HOUR_MS = 3_600_000
Seen = Sequence[tuple[str, int, int, int]]
"""Id, partition, offset and received milliseconds of records."""


class Ids:
    """Ids that clients chose within the window, and the place each was first seen; on disk beside Spark's files."""

    def __init__(self, tables: SparkTables, hours: float) -> None:
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.execute("create table ids (id text primary key, part integer, offset integer, ms integer)")
        frame = tables.ids(hours)
        for row in frame.toLocalIterator():
            self.add([(row.event_id, row.part, row.offset, row.received_ms)])

    def known(self, seen: Seen) -> dict[str, tuple[int, int, int]]:
        """Return which of the ids were first seen elsewhere, and where."""
        found = {}
        for event_id, partition, offset, _ in seen:
            row = self._db.execute("select part, offset, ms from ids where id = ?", (event_id,)).fetchone()
            if row is not None and row[:2] != (partition, offset):
                found[event_id] = row
        return found

    def add(self, seen: Seen) -> None:
        self._db.executemany("insert or replace into ids values (?, ?, ?, ?)", seen)

    def forget(self, before_ms: int) -> None:
        """Forget the ids of records that were received before that."""
        self._db.execute("delete from ids where ms < ?", (before_ms,))


def seen_table(seen: Iterable[Sequence[object]]) -> pa.Table:
    """Return ids as rows of the lander's table."""
    return pa.Table.from_pylist([dict(zip(SEEN.names, row, strict=True)) for row in seen], schema=SEEN)


def split_ids(seen: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield the ids of each day that they were received on."""
    days = pc.floor(pc.divide(seen.column("received_ms").cast(pa.float64()), float(DAY_MS))).cast(pa.int32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day, seen.filter(pc.equal(days, day))
