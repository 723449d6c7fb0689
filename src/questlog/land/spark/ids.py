"""Ids that clients chose, within the plan's window: which came before, and where."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

SEEN = pa.schema([("event_id", pa.string()), ("part", pa.int32()), ("offset", pa.int64()), ("received_ms", pa.int64())])
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


def seen_table(seen: Iterable[Sequence[object]]) -> pa.Table:
    """Return ids as rows of the lander's table."""
    return pa.Table.from_pylist([dict(zip(SEEN.names, row, strict=True)) for row in seen], schema=SEEN)
