"""Iceberg tables on local disk: rows and position in one commit, fsynced before the catalog moves."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.transforms import DayTransform

from questlog.lake.state import check_epoch, connect, decode, encode, transaction
from questlog.log import START, Position, merge

NAMESPACE = "questlog"
POSITION = "questlog.position"
PLAN = "questlog.plan-version"
_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "commit.retry.num-retries": "0",  # a retry would rebase rows another lander may have landed
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "10",
}


class IcebergTables:
    """Keeps the contract of `Tables`. One lander writes at a time: `epoch` fences older ones."""

    def __init__(self, catalog_path: Path, warehouse: Path, *, epoch: int | None = None) -> None:
        self.state = connect(catalog_path)
        self.catalog = _FencedCatalog(catalog_path, warehouse, self.state, epoch)
        self.catalog.create_namespace_if_not_exists(NAMESPACE)
        self._loaded: dict[str, Table] = {}

    def commit(self, table: str, rows: pa.Table, through: Position, plan_version: str) -> None:
        """Add *rows* and remember *through* in one atomic step that survives a power cut."""
        target = self._table(table, rows.schema)
        aligned = rows.select([name for name in target.schema().column_names if name in rows.column_names])
        position = merge(_position(target.metadata), through)
        try:
            target.append(aligned, snapshot_properties={POSITION: encode(position), PLAN: plan_version})
        except BaseException:
            self._loaded.pop(table, None)
            raise

    def position(self, table: str) -> Position:
        """Return the last *through* committed to *table*, or START."""
        found = self._find(table)
        return START if found is None else _position(found.metadata)

    def files(self, table: str) -> Sequence[str]:
        """Return the data files a reader may open now."""
        found = self._find(table)
        return () if found is None else [path for path, _, _ in _live_files(found.metadata, found.io)]

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        return sorted(name for _, name in self.catalog.list_tables(NAMESPACE))

    def close(self) -> None:
        """Close the catalog's connections."""
        self.catalog.close()
        self.state.close()

    def _find(self, name: str) -> Table | None:
        if name not in self._loaded:
            try:
                self._loaded[name] = self.catalog.load_table((NAMESPACE, name))
            except NoSuchTableError:
                return None
        return self._loaded[name]

    def _table(self, name: str, schema: pa.Schema) -> Table:
        """Return the table, created or grown so that it has every column of *schema*."""
        found = self._find(name)
        if found is None:
            found = self._create(name, schema)
        else:
            _grow(found, schema)
        self._loaded[name] = found
        return found

    def _create(self, name: str, schema: pa.Schema) -> Table:
        created = self.catalog.create_table((NAMESPACE, name), schema=schema, properties=_PROPERTIES)
        with created.update_spec() as update:
            update.add_field("received_time", DayTransform(), "received_day")
        with created.update_schema() as change:
            for column in schema:
                comment = (column.metadata or {}).get(b"comment", b"").decode()
                if comment:
                    change.update_column(column.name, doc=comment)
        return created


def _grow(table: Table, schema: pa.Schema) -> None:
    """Add columns the plan gained; widening and renames belong to plan evolution."""
    known = set(table.schema().column_names)
    if known.issuperset(schema.names):
        return
    with table.update_schema() as change:
        change.union_by_name(schema)


def _position(metadata: TableMetadata) -> Position:
    """Return the element-wise maximum over all live snapshots: compaction carries no position of its own."""
    return merge(
        *(
            decode(str(snapshot.summary[POSITION]))
            for snapshot in metadata.snapshots
            if snapshot.summary is not None and POSITION in snapshot.summary
        )
    )


_manifests: dict[str, list[tuple[str, int, int]]] = {}


def _live_files(metadata: TableMetadata, io: Any) -> list[tuple[str, int, int]]:
    """Return (path, rows, bytes) of each live data file. Manifests never change, so each is read once."""
    snapshot = metadata.current_snapshot()
    if snapshot is None:
        return []
    found: list[tuple[str, int, int]] = []
    for manifest in snapshot.manifests(io):
        if manifest.manifest_path not in _manifests:
            _manifests[manifest.manifest_path] = [
                (e.data_file.file_path, e.data_file.record_count, e.data_file.file_size_in_bytes)
                for e in manifest.fetch_manifest_entry(io, discard_deleted=True)
            ]
        found += _manifests[manifest.manifest_path]
    return found


class _FencedCatalog(SqlCatalog):
    """The SQLite catalog; a commit moves the pointer, the reader's file list and checks the epoch at once."""

    def __init__(self, path: Path, warehouse: Path, state: sqlite3.Connection, epoch: int | None) -> None:
        self._state, self._epoch = state, epoch
        super().__init__(
            "questlog",
            uri=f"sqlite:///{path}",
            warehouse=str(warehouse),
            **{"py-io-impl": "questlog.lake.fileio.SyncedFileIO"},
        )

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        """Commit, or raise and leave the table as it was.  1 stage  2 write metadata  3 compare and swap."""
        name = Catalog.table_name_from(table.name())
        current = self.load_table(table.name())
        staged = self._update_and_stage_table(current, table.name(), requirements, updates)
        if staged.metadata == current.metadata:
            return _response(current.metadata, current.metadata_location)
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        files = _live_files(staged.metadata, staged.io)
        with transaction(self._state) as connection:
            check_epoch(connection, self._epoch)
            cursor = connection.execute(
                "update iceberg_tables set metadata_location = ?, previous_metadata_location = ?"
                " where catalog_name = ? and table_namespace = ? and table_name = ? and metadata_location = ?",
                (
                    staged.metadata_location, current.metadata_location,
                    self.name, NAMESPACE, name, current.metadata_location,
                ),
            )  # fmt: skip
            if cursor.rowcount != 1:
                raise CommitFailedException(f"table {name} was changed by another process")
            snapshot = staged.metadata.current_snapshot()
            summary = snapshot.summary if snapshot is not None else None
            connection.execute(
                "insert or replace into questlog_tables values (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    name,
                    staged.metadata_location,
                    json.dumps([path for path, _, _ in files]),
                    staged.metadata.schema().model_dump_json(),
                    encode(_position(staged.metadata)),
                    (summary[PLAN] if summary is not None and PLAN in summary else "") or "",
                    sum(rows for _, rows, _ in files),
                    sum(size for _, _, size in files),
                ),
            )
        return _response(staged.metadata, staged.metadata_location)


def _response(metadata: TableMetadata, location: str) -> CommitTableResponse:
    return CommitTableResponse.model_validate({"metadata": metadata, "metadata-location": location})
