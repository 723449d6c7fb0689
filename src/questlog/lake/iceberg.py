"""Iceberg tables on local disk: rows and position in one commit, fsynced before the catalog moves."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.transforms import DayTransform

from questlog.errors import LakeUnavailable, QuestlogError
from questlog.lake.checkpoint import Checkpoint, encode_position, merge_checkpoints, read_summary, summary_notes
from questlog.lake.datafile import layout_of, merge_files, read_rows, write_rows
from questlog.lake.evolve import refuse_breaking
from questlog.lake.fileio import NewFiles
from questlog.lake.ledger import count_rows
from questlog.lake.parquet import DAY_COLUMN, METRICS, aligned
from questlog.lake.schema import EvolvedSchema, evolve_schema, read_renamed, renamed_property
from questlog.lake.state import (
    CATALOG,
    NAMESPACE,
    LedgerRow,
    add_to_ledger,
    check_epoch,
    connect_lake,
    transaction,
    unavailable,
)
from questlog.lake.version import (
    KEEP_METADATA,
    Change,
    Version,
    live_entries,
    local_path,
    next_version,
    read_version,
)
from questlog.log import START, Position
from questlog.plan import Plan

_PROPERTIES = {
    "write.parquet.compression-codec": "zstd",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": str(KEEP_METADATA),
    **METRICS,
}


@dataclass(frozen=True, slots=True)
class _Step:
    """A table's next version, written and not yet pointed to."""

    table: str
    base: Version
    change: Change


class IcebergTables:
    """Implements `Tables`. One lander writes at a time; `epoch` fences older ones."""

    def __init__(
        self,
        catalog_path: Path,
        warehouse: Path,
        *,
        epoch: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.state, self.roots = connect_lake(catalog_path, warehouse)
        self.warehouse, self.epoch = warehouse, epoch
        self._clock = clock
        self._versions: dict[str, Version] = {}
        self._plan: Plan | None = None
        self._doubtful: list[NewFiles] = []

    # -- the contract ----------------------------------------------------------------------------

    def commit(self, table: str, rows: pa.Table, through: Position, plan_version: str) -> None:
        """Add *rows* and record *through* in one atomic step that survives a power cut.

        The same step creates the table and evolves its schema to the rows' columns.
        """
        with self._writing(table) as files:
            step = self._added(table, rows, through, plan_version, files)
            self._move([step], files, count_rows(table, rows, self._plan))

    def position(self, table: str) -> Position:
        """Return the last *through* committed to *table*, or START."""
        version = self._version(table)
        return START if version is None else _checkpoint(version.metadata).position

    def files(self, table: str) -> Sequence[str]:
        """Return the data files a reader may open now."""
        version = self._version(table)
        return () if version is None else [e.data_file.file_path for m in version.manifests for e in live_entries(m)]

    # -- for the lander --------------------------------------------------------------------------

    def adopt(self, plan: Plan) -> None:
        """Use *plan* for the following commits; raise `PlanError` if a table cannot evolve to it."""
        if self._plan is None or self._plan.version != plan.version:
            refuse_breaking(plan, self.state)
            self._plan = plan

    def tables(self) -> list[str]:
        """Return the names of all tables."""
        query = "select table_name from iceberg_tables where catalog_name = ? and table_namespace = ? order by 1"
        return [name for (name,) in self.state.execute(query, (CATALOG, NAMESPACE))]

    def replace(self, table: str, paths: Mapping[str, str], day: int | None, heartbeat: Callable[[], None]) -> None:
        """Merge the files *paths* (each with its manifest), all of one day, into one file."""
        base = self._version(table)
        assert base is not None
        layout = layout_of(base.metadata.schema())
        notes = summary_notes(_checkpoint(base.metadata))
        with self._writing(table) as files:
            merged = merge_files(list(paths), day, layout, _folder(base.metadata) / "data", files, heartbeat)
            change = next_version(base, base.metadata, files, added=[merged], removed=paths, notes=notes)
            self._move([_Step(table, base, change)], files, ())

    def transfer(
        self,
        rows: Mapping[str, pa.Table],
        source: str,
        keep: Mapping[str, pa.Table],
        plan_version: str,
        counted: Sequence[LedgerRow],
    ) -> None:
        """Add *rows* to their tables and reduce the files of *source* named in *keep* to the rows given there.

        This is one atomic step, and no table's position moves.
        """
        with self._writing(source) as files:
            steps = [self._added(name, part, START, plan_version, files) for name, part in rows.items()]
            self._move([*steps, self._kept(source, keep, files)], files, counted)

    def rows(self, table: str, path: str) -> pa.Table:
        """Return the rows of one of the table's files, with the table's current columns."""
        version = self._version(table)
        assert version is not None
        return read_rows(path, layout_of(version.metadata.schema()))

    def version(self, table: str) -> Version | None:
        """Return the table's current version, or None if there is no such table."""
        return self._version(table)

    def close(self) -> None:
        """Close the catalog's connection."""
        self.state.close()

    # -- inside ----------------------------------------------------------------------------------

    def _aliases(self, table: str) -> dict[str, Sequence[str]]:
        events = self._plan.tables.get(table, []) if self._plan is not None else []
        return {field.name: field.aliases for event in events for field in event.fields if field.aliases}

    def _version(self, table: str) -> Version | None:
        """Return the version that the catalog points to; if another engine committed it, publish it to readers."""
        pointer = self.state.execute(
            "select i.metadata_location, q.metadata_location from iceberg_tables i"
            " left join questlog_tables q on q.name = i.table_name"
            " where i.catalog_name = ? and i.table_namespace = ? and i.table_name = ?",
            (CATALOG, NAMESPACE, table),
        ).fetchone()
        if pointer is None:
            return None
        location, published = pointer
        if table not in self._versions or self._versions[table].location != location:
            self._versions[table] = read_version(location)
        if published != location and self.epoch is not None:
            with transaction(self.state) as connection:
                check_epoch(connection, self.epoch)
                _adopt_version(connection, table, self._versions[table], self._now_ms())
        return self._versions[table]

    @contextmanager
    def _writing(self, table: str) -> Iterator[NewFiles]:
        """Yield files to write; none of them is left if the block fails before the catalog commits."""
        files = NewFiles(self.roots)
        try:
            yield files
        except QuestlogError:
            files.discard()
            raise
        except OSError as error:
            files.discard()
            raise unavailable(f"table {table}", error, self.warehouse.parent) from error
        except sqlite3.Error as error:
            # After a crash, SQLite may still find a failed commit to be complete. Its files are kept until the
            # next commit has overwritten it.
            self._doubtful.append(files)
            raise unavailable(f"table {table}", error, self.warehouse.parent) from error
        while self._doubtful:
            self._doubtful.pop().discard()

    def _added(self, table: str, rows: pa.Table, through: Position, plan_version: str, files: NewFiles) -> _Step:
        """Write a version that adds *rows*, its schema evolved to their columns."""
        base = self._version(table) or _blank(self.warehouse / NAMESPACE / table, rows.schema)
        aliases = self._aliases(table)
        metadata = base.metadata
        renamed = read_renamed(metadata.properties)
        evolved = evolve_schema(metadata.schema(), rows.schema, metadata.last_column_id, aliases, renamed)
        metadata = _with_evolved(metadata, evolved)
        layout = layout_of(metadata.schema())
        checkpoint = merge_checkpoints((_checkpoint(base.metadata), Checkpoint(through, plan_version)))
        notes = summary_notes(checkpoint)
        added = write_rows(aligned(rows, layout.arrow, evolved.moved), layout, _folder(metadata) / "data", files)
        return _Step(table, base, next_version(base, metadata, files, added=added, notes=notes))

    def _kept(self, table: str, keep: Mapping[str, pa.Table], files: NewFiles) -> _Step:
        """Write a version in which the files in *keep* are reduced to the given rows."""
        base = self._version(table)
        assert base is not None
        layout = layout_of(base.metadata.schema())
        query = "select manifest from questlog_files where table_name = ? and path = ?"
        removed = {path: self.state.execute(query, (table, path)).fetchone()[0] for path in keep}
        notes = summary_notes(_checkpoint(base.metadata))
        folder = _folder(base.metadata) / "data"
        added = [file for rows in keep.values() if rows.num_rows for file in write_rows(rows, layout, folder, files)]
        return _Step(table, base, next_version(base, base.metadata, files, added=added, removed=removed, notes=notes))

    def _move(self, steps: Sequence[_Step], files: NewFiles, counted: Sequence[LedgerRow]) -> None:
        """Point the catalog to the new versions: tables, files, positions and ledger, in one fenced transaction."""
        files.sync()
        with transaction(self.state) as connection:
            check_epoch(connection, self.epoch)
            for step in steps:
                location = step.change.version.location
                _swap_pointer(connection, step.table, step.base.location, location)
                _save_table(connection, step.table, step.change.version.metadata, location)
                _save_files(connection, step.table, step.change, self._now_ms())
            add_to_ledger(connection, counted)
        self._versions.update({step.table: step.change.version for step in steps})

    def _now_ms(self) -> int:
        """Return the time that dates garbage. A table's own `last-updated-ms` never goes back, not even from 2100."""
        return int(self._clock() * 1000)


def _swap_pointer(connection: sqlite3.Connection, table: str, old: str, new: str) -> None:
    if old:
        changed = connection.execute(
            "update iceberg_tables set metadata_location = ?, previous_metadata_location = ? where catalog_name = ?"
            " and table_namespace = ? and table_name = ? and metadata_location = ?",
            (new, old, CATALOG, NAMESPACE, table, old),
        )
    else:
        changed = connection.execute(
            "insert or ignore into iceberg_tables values (?, ?, ?, ?, null, 'TABLE')",
            (CATALOG, NAMESPACE, table, new),
        )
    if changed.rowcount != 1:
        raise LakeUnavailable(f"table {table} was changed by another process", retry_after=0.1)


def _save_table(connection: sqlite3.Connection, table: str, metadata: TableMetadata, location: str) -> None:
    checkpoint = _checkpoint(metadata)
    connection.execute(
        "insert into questlog_tables values (?, ?, ?, ?, ?, 0, 0) on conflict (name) do update set"
        " metadata_location = excluded.metadata_location, schema = excluded.schema,"
        " position = excluded.position, plan_version = excluded.plan_version",
        (
            table,
            location,
            metadata.schema().model_dump_json(),
            encode_position(checkpoint.position),
            checkpoint.plan,
        ),
    )


def _save_files(connection: sqlite3.Connection, table: str, change: Change, now_ms: int) -> None:
    """Update files, totals and garbage by the difference to the last version: the cost is independent of age."""
    added = {f.file_path: (f.partition[0], f.record_count, f.file_size_in_bytes) for f in change.added}
    connection.executemany(
        "update questlog_files set manifest = ? where table_name = ? and path = ?",
        [(home, table, path) for path, home in change.homes.items() if path not in added],
    )
    totals = [(rows, size) for _, rows, size in added.values()]
    sequence = change.version.metadata.last_sequence_number
    for path in change.removed:
        rows, size, first = connection.execute(
            "delete from questlog_files where table_name = ? and path = ? returning -rows, -bytes, sequence",
            (table, path),
        ).fetchone()
        totals.append((rows, size))
        sequence = min(sequence, first)
    connection.executemany(
        "insert into questlog_files values (?, ?, ?, ?, ?, ?, ?)",
        [(table, path, change.homes[path], *facts, sequence) for path, facts in added.items()],
    )
    connection.execute(
        "update questlog_tables set rows = rows + ?, bytes = bytes + ? where name = ?",
        (sum(rows for rows, _ in totals), sum(size for _, size in totals), table),
    )
    add_garbage(connection, table, change.garbage, now_ms)


def add_garbage(connection: sqlite3.Connection, table: str, garbage: Mapping[str, int], since_ms: int) -> None:
    """Record files for deletion, once no kept snapshot needs them and no query can still be reading them."""
    connection.executemany(
        "insert or ignore into questlog_garbage values (?, ?, ?, ?)",
        [(local_path(path), table, last, since_ms) for path, last in garbage.items()],
    )


def _adopt_version(connection: sqlite3.Connection, table: str, version: Version, now_ms: int) -> None:
    """Publish what another engine committed: readers must see its files."""
    entries = {
        e.data_file: (m.manifest_path, e.sequence_number or 0) for m in version.manifests for e in live_entries(m)
    }
    old = {path for (path,) in connection.execute("select path from questlog_files where table_name = ?", (table,))}
    gone = old - {local_path(file.file_path) for file in entries}
    last = version.metadata.last_sequence_number - 1
    add_garbage(connection, table, dict.fromkeys(gone, last), now_ms)
    connection.execute("delete from questlog_files where table_name = ?", (table,))
    connection.executemany(
        "insert into questlog_files values (?, ?, ?, ?, ?, ?, ?)",
        [
            (table, local_path(f.file_path), home, f.partition[0], f.record_count, f.file_size_in_bytes, sequence)
            for f, (home, sequence) in entries.items()
        ],
    )
    _save_table(connection, table, version.metadata, version.location)
    connection.execute(
        "update questlog_tables set (rows, bytes) = (select coalesce(sum(rows), 0), coalesce(sum(bytes), 0)"
        " from questlog_files where table_name = ?1) where name = ?1",
        (table,),
    )


def _blank(location: Path, columns: pa.Schema) -> Version:
    """Return an empty version of a table, which its first commit creates."""
    evolved = evolve_schema(Schema(), columns, 0)
    day = PartitionField(evolved.schema.find_field(DAY_COLUMN).field_id, 1000, DayTransform(), "received_day")
    metadata = {
        "format-version": 2,
        "location": str(location),
        "table-uuid": uuid.uuid4(),
        "schemas": [evolved.schema],
        "current-schema-id": 0,
        "last-column-id": evolved.last_id,
        "partition-specs": [PartitionSpec(day, spec_id=0)],
        "default-spec-id": 0,
        "last-partition-id": 1000,
        "sort-orders": [UNSORTED_SORT_ORDER],
        "default-sort-order-id": 0,
        "properties": dict(_PROPERTIES),
    }
    return Version(TableMetadataV2.model_validate(metadata))


def _with_evolved(metadata: TableMetadataV2, evolved: EvolvedSchema) -> TableMetadataV2:
    """Return the metadata with the evolved schema as current; an equal earlier schema is reused."""
    properties = {**metadata.properties, **renamed_property(metadata.properties, evolved)}
    current = next((s for s in metadata.schemas if s == evolved.schema), None)
    if current is not None and current.schema_id == metadata.current_schema_id and properties == metadata.properties:
        return metadata
    schemas = list(metadata.schemas)
    if current is None:
        current = evolved.schema.model_copy(update={"schema_id": max(s.schema_id for s in schemas) + 1})
        schemas.append(current)
    return metadata.model_copy(
        update={
            "schemas": schemas,
            "current_schema_id": current.schema_id,
            "last_column_id": max(metadata.last_column_id, evolved.last_id),
            "properties": properties,
        }
    )


def _folder(metadata: TableMetadata) -> Path:
    return Path(local_path(metadata.location))


def _checkpoint(metadata: TableMetadata) -> Checkpoint:
    return merge_checkpoints(read_summary(s.summary) for s in metadata.snapshots if s.summary is not None)
