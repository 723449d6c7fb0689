"""Copies a laptop's landed table into the cluster's table of that name, a piece at a time; goes on where it stopped.

Rows come as a query sees them: columns by Iceberg field id, under today's names and in the widest of their types.
Which version of which table a piece is of, and how far the copy is with it, stands in the snapshot that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from questlog.errors import LakeUnavailable, QuestlogError
from questlog.lake.state import LakeState, TableState
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE, Column, table_columns, table_comment
from questlog.plan.ddl import create_statement
from questlog.query.views import ViewColumn, view_columns, view_sql

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

PIECE_ROWS = 200_000
PIECE_BYTES = 32 << 20
"""A commit takes half a second however small it is, and a driver of 1 GB holds several copies of what it commits."""
_BATCH_ROWS = 10_000

Copied = Callable[[int], None]
"""Is told how many rows more are in the target."""


@dataclass(frozen=True, slots=True)
class Source:
    """One landed table as it is copied: `version` names exactly the rows that `files` hold."""

    name: str
    version: str
    rows: int
    files: Sequence[str]
    columns: Sequence[ViewColumn]
    comment: str
    plan: str

    @property
    def statement(self) -> str:
        """What makes the table in the cluster's catalog."""
        columns = [Column(c.name, c.type, c.comment) for c in self.columns]
        return create_statement(self.name, columns, self.comment, "spark")


def sources(state: LakeState, plan: Plan) -> list[Source]:
    """Return every table that was ever landed, those that the plan has left behind too."""
    return [_source(table, plan) for table in state.tables.values()]


def _source(table: TableState, plan: Plan) -> Source:
    planned = table.name in plan.tables or table.name == QUARANTINE_TABLE
    columns = view_columns(table_columns(plan, table.name) if planned else (), table.schema)
    return Source(
        table.name, table.metadata_location, table.rows, sorted(table.files), columns,
        table_comment(plan, table.name), table.plan_version,
    )  # fmt: skip


def refuse_strangers(tables: SparkTables, found: Sequence[Source], by: str) -> None:
    """Raise if a table of the target holds rows that are not of the copy *by*: nothing of others is touched."""
    for name in tables.names():
        if tables.records(name) and not any(each["by"] == by for each in tables.copied(name)):
            raise QuestlogError(
                f"table {name} in schema {tables.namespace} holds {tables.records(name):,} rows of somebody else",
                hint="name another schema: namespace in questlog.toml",
            )
    known = {source.name for source in found}
    for name in set(tables.names()) - known:  # made for a plan that is no more, by an attempt that ended
        if not tables.records(name) and "event_id" in tables.columns(name):
            tables.drop(name)


def copy_table(tables: SparkTables, source: Source, by: str, memory_mb: int, copied: Copied) -> None:
    """Make the target hold exactly the rows of *source*; what an interrupted copy has brought is used.

    Two attempts: a writer that was killed may commit its last piece after its successor has looked.
    """
    for _ in range(2):
        done = _done(tables, source, by)
        copied(done)
        for rows in _pieces(source, done, memory_mb):
            done += rows.num_rows
            tables.copy(source.name, rows, source.plan, {"by": by, "of": source.version, "rows": done})
            copied(rows.num_rows)
        if tables.records(source.name) == source.rows == done:
            return
        copied(-done)
        tables.drop(source.name)
    raise LakeUnavailable(
        f"the copy of table {source.name} has not {source.rows:,} rows, twice", hint="questlog doctor"
    )


def _done(tables: SparkTables, source: Source, by: str) -> int:
    """Return how many rows of exactly this version the target holds; if it is of anything else, it begins anew."""
    if source.name in tables.names():
        known = tables.copied(source.name)
        if known and all((each["by"], each["of"]) == (by, source.version) for each in known):
            return max(int(each["rows"]) for each in known)
        tables.drop(source.name)
    tables.create(source.statement)
    return 0


def _pieces(source: Source, skip: int, memory_mb: int) -> Iterator[pa.Table]:
    """Yield the rows after the first *skip*, always in the same order, in pieces of bounded size."""
    database = duckdb.connect(":memory:", config={"memory_limit": f"{memory_mb}MB", "temp_directory": ""})
    database.execute("set threads = 1")  # several might give the rows in another order the next time
    try:
        if not source.files:
            return
        reader = database.sql(view_sql(source.columns, source.files, None)).to_arrow_reader(_BATCH_ROWS)
        waiting: list[pa.RecordBatch] = []
        for batch in reader:
            kept = batch.slice(min(skip, batch.num_rows))
            skip -= batch.num_rows - kept.num_rows
            if kept.num_rows:
                waiting.append(kept)
            if sum(b.num_rows for b in waiting) >= PIECE_ROWS or sum(b.nbytes for b in waiting) >= PIECE_BYTES:
                yield pa.Table.from_batches(waiting)
                waiting = []
        if waiting:
            yield pa.Table.from_batches(waiting)
    finally:
        database.close()
