"""The game's Iceberg tables in one namespace: what each holds, and commits with the checkpoint in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyiceberg.schema import Schema

from questlog.lake.checkpoint import Checkpoint, merge_checkpoints, read_snapshots, table_checkpoint
from questlog.lake.parquet import aligned, parquet_bytes, split_by_day
from questlog.lake.schema import arrow_schema
from questlog.land.spark.commits import File, IcebergCatalog
from questlog.land.spark.session import CATALOG
from questlog.log import Position

COMMITS_AT_ONCE = 4


class SparkTables:
    """The game's tables in one namespace of the catalog."""

    def __init__(self, catalog: IcebergCatalog, namespace: str) -> None:
        self.catalog, self.namespace = catalog, namespace
        self._spark = catalog.spark

    def create_namespace(self) -> None:
        """Create the namespace if it does not exist."""
        self._spark.sql(f"create namespace if not exists {CATALOG}.{self.namespace}")

    def create(self, statement: str, *, if_not_exists: bool = False) -> None:
        """Create a table with the plan's *statement* and the properties that all our tables have."""
        if if_not_exists:
            statement = statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
        self._spark.sql(f"use {CATALOG}.{self.namespace}")
        self.catalog.create(statement)

    def names(self) -> list[str]:
        """Return the names of the tables."""
        rows = self._spark.sql(f"show tables in {CATALOG}.{self.namespace}").collect()
        return sorted(row.tableName for row in rows)

    def columns(self, table: str) -> list[str]:
        """Return the names of the table's columns."""
        return list(self._spark.table(f"{CATALOG}.{self.namespace}.`{table}`").columns)

    def rows(self, table: str) -> int:
        """Return how many rows the table has."""
        return self.catalog.rows(self.namespace, table)

    def metadata(self, table: str) -> Any:
        """Return the table's current metadata, in Iceberg's JSON."""
        return self.catalog.metadata(self.namespace, table)

    # -- checkpoints and commits -----------------------------------------------------------------

    def checkpoints(self, tables: Collection[str] | None = None) -> dict[str, Checkpoint]:
        """Return what each table holds: the maximum over all its snapshots."""
        return {name: table_checkpoint(self.metadata(name)) for name in (self.names() if tables is None else tables)}

    def take_over(self, tables: Collection[str]) -> dict[str, Checkpoint]:
        """Commit our epoch to the tables, so that no predecessor's commit can follow; return what they hold then."""
        with ThreadPoolExecutor(COMMITS_AT_ONCE) as pool:
            list(pool.map(self._take_over, tables))
        return self.checkpoints(tables)

    def _take_over(self, table: str) -> None:
        checkpoints = [s.checkpoint for s in read_snapshots(self.metadata(table)) if s.checkpoint is not None]
        if not checkpoints or checkpoints[-1].epoch != self.catalog.epoch:
            merged = merge_checkpoints(checkpoints)
            ours = Checkpoint(merged.position, merged.plan, self.catalog.epoch)
            self.catalog.append(self.namespace, table, (), ours)

    def commit(self, table: str, files: Sequence[File], through: Position, plan: str) -> None:
        """Add *files* and remember *through* in one snapshot; raise `LanderReplaced` if another lander took over."""
        self.catalog.append(self.namespace, table, files, Checkpoint(through, plan, self.catalog.epoch))

    # -- copies ----------------------------------------------------------------------------------

    def copy(self, table: str, rows: pa.Table, plan: str, copied: Mapping[str, Any]) -> None:
        """Add rows that were landed elsewhere; *copied* names the copy they belong to. No position moves."""
        rows = aligned(rows, arrow_columns(self.metadata(table)))
        files = [File(day, part.num_rows, parquet_bytes(part)) for day, part in split_by_day(rows)]
        checkpoint = Checkpoint(plan=plan, epoch=self.catalog.epoch, copied=copied)
        self.catalog.append(self.namespace, table, files, checkpoint)

    def copied(self, table: str) -> list[Mapping[str, Any]]:
        """Return the *copied* of each `copy` into the table."""
        checkpoints = [snapshot.checkpoint for snapshot in read_snapshots(self.metadata(table))]
        return [each.copied for each in checkpoints if each is not None and each.copied is not None]

    def drop(self, table: str) -> None:
        """Drop the table and delete its files."""
        self.catalog.drop(self.namespace, table)


def iceberg_schema(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table's current schema in Iceberg's JSON."""
    current = metadata["current-schema-id"]
    schema: dict[str, Any] = next(s for s in metadata["schemas"] if s["schema-id"] == current)
    return schema


def arrow_columns(metadata: Mapping[str, Any]) -> pa.Schema:
    """Return how rows of a table are written: its current columns, with Iceberg's ids."""
    return arrow_schema(Schema.model_validate(iceberg_schema(metadata)))
