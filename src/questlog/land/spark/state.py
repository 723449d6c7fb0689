"""The lander's own tables, in `<namespace>_state`: the checkpoint of all tables, the ids that clients chose, old plans.

The checkpoint stands in the snapshots of the table `progress`, whose rows are the ids.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from questlog.errors import LanderReplaced
from questlog.lake.checkpoint import Checkpoint, read_snapshots, table_checkpoint
from questlog.lake.parquet import aligned, parquet_bytes
from questlog.land.spark.commits import DAY_MS, Fence, File, IcebergCatalog, replaced
from questlog.land.spark.session import CATALOG
from questlog.land.spark.tables import arrow_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CHECKPOINTS = "progress"
"""The table whose snapshots hold the checkpoint. Its name predates the term."""
PLANS = "plans"
HOUR_MS = 3_600_000
SEEN = pa.schema([("event_id", pa.string()), ("part", pa.int32()), ("offset", pa.int64()), ("received_ms", pa.int64())])
Seen = Sequence[tuple[str, int, int, int]]
"""Id, partition, offset and received milliseconds of records."""


class LanderState:
    """The tables in `<namespace>_state`."""

    def __init__(self, catalog: IcebergCatalog, namespace: str) -> None:
        self._catalog, self._spark = catalog, catalog.spark
        self.namespace = f"{namespace}_state"

    def take_over(self) -> Checkpoint:
        """Create the tables, begin the next epoch, and return the checkpoint."""
        path = f"{CATALOG}.{self.namespace}"
        self._spark.sql(f"create namespace if not exists {path}")
        self._catalog.create(
            f"create table if not exists {path}.{CHECKPOINTS} (event_id string, part int, offset bigint,"
            f" received_ms bigint) using iceberg partitioned by (truncate({DAY_MS}, received_ms))"
        )
        self._catalog.create(f"create table if not exists {path}.{PLANS} (version string, text string) using iceberg")
        while True:
            checkpoint = self.checkpoint()
            self._catalog.begin(checkpoint.epoch + 1)
            try:
                self.save(checkpoint, fence=Fence(self._catalog.epoch, claims=True))
            except LanderReplaced:  # a lander that started at the same moment was faster; ours follows it
                continue
            return self.checkpoint()

    def check_epoch(self) -> None:
        """Raise `LanderReplaced` if another lander took over: for steps without a commit that would raise it."""
        newest = max((s.checkpoint.epoch for s in read_snapshots(self._metadata()) if s.checkpoint), default=0)
        if newest > self._catalog.epoch:
            raise replaced(newest, self._catalog.epoch)

    # -- the checkpoint --------------------------------------------------------------------------

    def checkpoint(self) -> Checkpoint:
        """Return what every table holds."""
        return table_checkpoint(self._metadata())

    def save(self, checkpoint: Checkpoint, seen: pa.Table | None = None, fence: Fence | None = None) -> None:
        """Move the checkpoint, with the ids that clients chose, in one snapshot.

        Raises `LanderReplaced` if another lander took over.
        """
        files = [] if seen is None else self._id_files(seen)
        # without `kept`, which would claim that maintenance has seen this commit
        checkpoint = replace(checkpoint, epoch=self._catalog.epoch, kept=0, swept=0)
        self._catalog.append(self.namespace, CHECKPOINTS, files, checkpoint, fence)

    def _metadata(self) -> dict[str, object]:
        metadata: dict[str, object] = self._catalog.metadata(self.namespace, CHECKPOINTS)
        return metadata

    # -- plans -----------------------------------------------------------------------------------

    def plan_text(self, version: str) -> str | None:
        """Return the text of a plan that has landed here."""
        rows = self._spark.table(f"{CATALOG}.{self.namespace}.{PLANS}").where(f"version = '{version}'").collect()
        return rows[0].text if rows else None

    def save_plan(self, version: str, text: str) -> None:
        """Keep a plan's text, even one that no longer parses: a batch is finished under the plan that began it."""
        if self.plan_text(version) is None:
            rows = pa.table({"version": [version], "text": [text]})
            rows = aligned(rows, arrow_columns(self._catalog.metadata(self.namespace, PLANS)))
            self._catalog.append(self.namespace, PLANS, [File(None, rows.num_rows, parquet_bytes(rows))])

    # -- ids -------------------------------------------------------------------------------------

    def add_ids(self, seen: pa.Table) -> None:
        """Keep ids that clients chose and that were not seen in the topic; the checkpoint stays where it is."""
        self._catalog.append(self.namespace, CHECKPOINTS, self._id_files(seen))

    def ids(self, hours: float) -> DataFrame:
        """Return the ids that clients chose, as far back as `oldest_id_ms`."""
        table = self._spark.table(f"{CATALOG}.{self.namespace}.{CHECKPOINTS}")
        return table.where(f"received_ms >= {self.oldest_id_ms(hours)}")

    def oldest_id_ms(self, hours: float) -> int:
        """Return from when on ids count: *hours* and a day before the newest one, by event time, not by the clock.

        A record that waited in a spool or a topic is old, and so are its repeats. A server whose clock is ahead must
        not expire the ids of all others.
        """
        newest = min(self._ids_between()[1], time.time_ns() // 1_000_000)
        return int(newest - (hours + 24) * HOUR_MS)

    def expire_ids(self, hours: float) -> int:
        """Delete whole days of expired ids; return the cutoff (ms). Raises `LanderReplaced`."""
        day = self.oldest_id_ms(hours) // DAY_MS * DAY_MS
        if self._ids_between()[0] < day:
            self._catalog.delete_below(self.namespace, CHECKPOINTS, "received_ms", day)
        return day

    def _ids_between(self) -> tuple[int, int]:
        """Return when the oldest and the newest of the ids were received."""
        query = f"select min(received_ms), max(received_ms) from {CATALOG}.{self.namespace}.{CHECKPOINTS}"
        oldest, newest = self._spark.sql(query).collect()[0]
        return (0, 0) if newest is None else (oldest, newest)

    def _id_files(self, seen: pa.Table) -> list[File]:
        if not seen.num_rows:
            return []
        rows = aligned(seen, arrow_columns(self._catalog.metadata(self.namespace, CHECKPOINTS)))
        return [File(day, part.num_rows, parquet_bytes(part)) for day, part in _split_ids(rows)]


class Ids:
    """The ids that clients chose within the window, and where each was first seen; in a temporary SQLite file."""

    def __init__(self, state: LanderState, hours: float) -> None:
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.execute("create table ids (id text primary key, part integer, offset integer, ms integer)")
        for row in state.ids(hours).toLocalIterator():
            self.add([(row.event_id, row.part, row.offset, row.received_ms)])

    def seen_elsewhere(self, seen: Seen) -> dict[str, tuple[int, int, int]]:
        """Return which of the ids were first seen at another place, and where."""
        elsewhere = {}
        for event_id, partition, offset, _ in seen:
            row = self._db.execute("select part, offset, ms from ids where id = ?", (event_id,)).fetchone()
            if row is not None and row[:2] != (partition, offset):
                elsewhere[event_id] = row
        return elsewhere

    def add(self, seen: Seen) -> None:
        self._db.executemany("insert or replace into ids values (?, ?, ?, ?)", seen)

    def expire(self, before_ms: int) -> None:
        """Remove the ids of records received before *before_ms*."""
        self._db.execute("delete from ids where ms < ?", (before_ms,))


def ids_table(seen: Iterable[Sequence[object]]) -> pa.Table:
    """Return ids as rows of the lander's table."""
    return pa.Table.from_pylist([dict(zip(SEEN.names, row, strict=True)) for row in seen], schema=SEEN)


def _split_ids(seen: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield the ids received on each day."""
    days = pc.floor(pc.divide(seen.column("received_ms").cast(pa.float64()), float(DAY_MS))).cast(pa.int32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day, seen.filter(pc.equal(days, day))
