"""What a copy needs beside the tables: known ids, old plans, and the log up to one place."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from questlog.lake.state import connect
from questlog.log import Batch, LogReader, Position, cut_gaps, merge

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

_IDS = 200_000
_SCHEMA = pa.schema(
    [("event_id", pa.string()), ("part", pa.int32()), ("offset", pa.int64()), ("received_ms", pa.int64())]
)


def copy_plans(tables: SparkTables, catalog: Path) -> None:
    """Keep in the cluster every plan that has landed here."""
    with closing(connect(catalog)) as db:
        for version, text in db.execute("select version, text from questlog_plans order by version").fetchall():
            tables.remember_text(version, text)


def copy_ids(tables: SparkTables, catalog: Path) -> None:
    """Take along the ids that clients chose: one that is sent again after the promotion is a duplicate still.

    Their places are in the laptop's log. Partitions below 0 say so: none of the topic's is taken for one.
    """
    with closing(connect(catalog)) as db:
        cursor = db.execute('select event_id, -1 - partition, "offset", received_ms from questlog_seen order by 1')
        while rows := cursor.fetchmany(_IDS):
            tables.know(_table(rows))


def _table(rows: Sequence[sqlite3.Row]) -> pa.Table:
    return pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )


class UpTo:
    """A log that ends at *until* for who reads it, however much is written behind that."""

    def __init__(self, log: LogReader, until: Position) -> None:
        self._log, self._until = log, until

    def read(self, after: Position, limit: int, max_bytes: int = 2**62) -> Batch:
        """Return what the log returns, without what stands at *until* or behind it."""
        position, begun = dict(after), dict(after)
        while batch := self._log.read(position, limit, max_bytes):
            entries = [e for e in batch.entries if e.offset < self._until.get(e.partition, 0)]
            gaps = tuple(cut_gaps(batch.gaps, self._until))
            position = merge(position, batch.through)
            if entries or gaps:
                through = {p: max(min(o, self._until.get(p, 0)), begun.get(p, 0)) for p, o in position.items()}
                return Batch(entries, through, gaps)
        return Batch((), after)

    def end(self) -> Position:
        """Return the place where it ends."""
        return self._until

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Nothing is forgotten through this."""
        return 0
