"""Copies a laptop's landed tables, ids and plans to the cluster, a piece at a time; an interrupted copy resumes.

Rows come as a query sees them: columns by Iceberg field id, under today's names and in the widest of their types.
The snapshot of each piece records which version of which table it belongs to, and how many rows are copied with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from questlog.errors import LakeUnavailable, QuestlogError
from questlog.lake.state import LakeState, TableState, connect
from questlog.land.spark.state import LanderState, ids_table
from questlog.land.spark.tables import SparkTables
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE, Column, table_columns, table_comment
from questlog.plan.ddl import create_statement
from questlog.query.views import ViewColumn, view_columns, view_sql

PIECE_ROWS = 200_000
PIECE_BYTES = 32 << 20
"""Even a small commit takes half a second, and a driver of 1 GB holds several copies of what it commits."""
_BATCH_ROWS = 10_000

Copied = Callable[[int], None]
"""Called with how many more rows are in the target."""


@dataclass(frozen=True, slots=True)
class CopyTarget:
    """Where the tables are copied to: the game's tables, and the lander's own."""

    tables: SparkTables
    state: LanderState

    def drop(self, table: str) -> None:
        """Drop a table and its files; raise `LanderReplaced` if another lander took over."""
        self.state.check_epoch()
        self.tables.drop(table)


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One landed table to copy: `version` identifies exactly the rows in `files`."""

    name: str
    version: str
    rows: int
    files: Sequence[str]
    columns: Sequence[ViewColumn]
    comment: str
    plan: str

    @property
    def statement(self) -> str:
        """The statement that creates the table in the cluster's catalog."""
        columns = [Column(c.name, c.type, c.comment) for c in self.columns]
        return create_statement(self.name, columns, self.comment, "spark")


def sources(state: LakeState, plan: Plan) -> list[SourceTable]:
    """Return every table that was ever landed, also those that are no longer in the plan."""
    return [_source(table, plan) for table in state.tables.values()]


def _source(table: TableState, plan: Plan) -> SourceTable:
    planned = table.name in plan.tables or table.name == QUARANTINE_TABLE
    columns = view_columns(table_columns(plan, table.name) if planned else (), table.schema)
    return SourceTable(
        table.name, table.metadata_location, table.rows, sorted(table.files), columns,
        table_comment(plan, table.name), table.plan_version,
    )  # fmt: skip


def refuse_foreign_rows(target: CopyTarget, copied: Sequence[SourceTable], by: str) -> None:
    """Raise if a table of the target holds rows that the copy *by* did not write: foreign rows are never touched."""
    tables = target.tables
    for name in tables.names():
        if tables.rows(name) and not any(each["by"] == by for each in tables.copied(name)):
            raise QuestlogError(
                f"table {name} in schema {tables.namespace} holds {tables.rows(name):,} rows that were not copied from"
                " this project",
                hint="choose another schema: namespace in questlog.toml",
            )
    sources = {source.name for source in copied}
    for name in set(tables.names()) - sources:  # created for an older plan by an attempt that ended
        if not tables.rows(name) and "event_id" in tables.columns(name):
            target.drop(name)


def copy_table(target: CopyTarget, source: SourceTable, by: str, memory_mb: int, copied: Copied) -> None:
    """Make the target hold exactly the rows of *source*, reusing what an interrupted copy has written.

    Two attempts: a writer that was killed may commit its last piece after its successor has checked.
    """
    for _ in range(2):
        done = _done(target, source, by)
        copied(done)
        for rows in _pieces(source, done, memory_mb):
            done += rows.num_rows
            target.state.check_epoch()
            target.tables.copy(source.name, rows, source.plan, {"by": by, "of": source.version, "rows": done})
            copied(rows.num_rows)
        if target.tables.rows(source.name) == source.rows == done:
            return
        copied(-done)
        target.drop(source.name)
    raise LakeUnavailable(
        f"the copy of table {source.name} does not have {source.rows:,} rows after two attempts", hint="questlog doctor"
    )


def _done(target: CopyTarget, source: SourceTable, by: str) -> int:
    """Return how many rows of exactly this version the target holds; a copy of anything else starts over."""
    tables = target.tables
    if source.name in tables.names():
        pieces = tables.copied(source.name)
        if pieces and all((each["by"], each["of"]) == (by, source.version) for each in pieces):
            return max(int(each["rows"]) for each in pieces)
        target.drop(source.name)
    tables.create(source.statement)
    return 0


def _pieces(source: SourceTable, skip: int, memory_mb: int) -> Iterator[pa.Table]:
    """Yield the rows after the first *skip* in pieces of bounded size, in the same order every time."""
    database = duckdb.connect(":memory:", config={"memory_limit": f"{memory_mb}MB", "temp_directory": ""})
    database.execute("set threads = 1")  # several threads could return the rows in another order next time
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


def copy_plans(state: LanderState, catalog: Path) -> None:
    """Keep in the cluster every plan that has landed here."""
    with closing(connect(catalog)) as db:
        for version, text in db.execute("select version, text from questlog_plans order by version").fetchall():
            state.save_plan(version, text)


def copy_ids(state: LanderState, catalog: Path) -> None:
    """Copy the ids that clients chose: a retry after the promotion is still a duplicate.

    Their positions are in the laptop's log. Partitions below 0 mark that: none is mistaken for one of the topic's.
    """
    with closing(connect(catalog)) as db:
        cursor = db.execute('select event_id, -1 - partition, "offset", received_ms from questlog_seen order by 1')
        while rows := cursor.fetchmany(PIECE_ROWS):
            state.add_ids(ids_table(rows))
