"""The cluster's export: Spark writes a day's files to a new folder, then the Metastore switches to it.

So a query through the Metastore sees a day as one export wrote it, either the old or the new one, never both. A folder
is named after the source of its rows: a day whose folder has the right name is up to date.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from questlog.errors import QuestlogError
from questlog.export import Exported, Shown, day_key
from questlog.export.metastore import HiveColumn, Metastore, open_metastore
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.types import DataType, StructType

FILE_BYTES = 256 << 20
KEEP_SECONDS = 3600.0
"""How long replaced files are kept for queries that still read them."""
_REPLACED = "_replaced"


@dataclass(frozen=True, slots=True)
class _Source:
    """One snapshot of an Iceberg table: day -> (digest of its files, bytes)."""

    table: str
    snapshot: int
    schema: StructType
    days: dict[str, tuple[str, int]]


class HiveExport:
    """Writes the tables of *namespace* to external tables in *database*."""

    def __init__(
        self,
        session: Callable[[], SparkSession],
        *,
        catalog: str,
        namespace: str,
        database: str,
        warehouse: str,
        metastore: str,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self._session, self._catalog, self._namespace = session, catalog, namespace
        self._database, self._root, self._uris = database, f"{warehouse.rstrip('/')}/{database}.db", metastore
        self._keep_seconds = keep_seconds
        if not re.fullmatch("[a-z][a-z0-9_]*", database):
            raise QuestlogError(f"{database!r} is not a valid database name", hint="lower-case letters, digits and _")
        if not metastore.startswith("thrift://"):
            raise QuestlogError(
                f"plain Parquet needs a Hive Metastore, but {metastore} is an Iceberg REST catalog",
                hint="its own tables are Parquet too, and any engine with Iceberg support reads them",
            )
        if database in (namespace, f"{namespace}_state"):
            raise QuestlogError(f"database {database} holds the Iceberg tables", hint="--into another name")

    def run(self, tables: Sequence[str], stop: StopSignal, shown: Shown) -> dict[str, Exported]:
        """Write the changed days of *tables*, or of all tables; return what was written, even if stopped early."""
        spark = self._session()
        try:
            with open_metastore(spark, self._uris) as metastore:
                return self._run(spark, metastore, tables, stop, shown)
        finally:
            spark.stop()

    def _run(
        self, spark: SparkSession, metastore: Metastore, tables: Sequence[str], stop: StopSignal, shown: Shown
    ) -> dict[str, Exported]:
        rows = spark.sql(f"show tables in {self._catalog}.{self._namespace}").collect()
        existing = sorted(row.tableName for row in rows)
        if unknown := sorted(set(tables) - set(existing)):
            raise QuestlogError(f"there is no table {unknown[0]}", hint=f"tables: {', '.join(existing)}")
        metastore.make_database(self._database, self._root)
        sources = [source for name in tables or existing if (source := self._source(spark, name)) is not None]
        total, done, exported = sum(len(source.days) for source in sources), 0, dict[str, Exported]()
        for source in sources:
            one = exported[source.table] = Exported()
            key, columns = day_key(source.schema.names), hive_columns(source.schema)
            root, name = f"{self._root}/{source.table}", f"{self._catalog}.{self._namespace}.{source.table}"
            metastore.make_table(self._database, source.table, columns, key, root, name, "")
            parts = metastore.parts(self._database, source.table)
            for day, (mark, size) in sorted(source.days.items()):
                if stop.is_set():
                    return exported
                there = parts.get(day)
                if there is not None and _is_current(there.location, mark, there.columns, columns):
                    one.unchanged += 1
                else:
                    location = f"{root}/{key}={day}/{mark}-{_mark(map(repr, columns))[:8]}"
                    one.rows += self._write(spark, source, day, location, size)
                    metastore.put(self._database, source.table, day, columns, location, new=there is None)
                    one.written.append(day)
                done += 1
                shown(sum(each.rows for each in exported.values()), done, total)
            for day in sorted(parts.keys() - source.days.keys()):
                metastore.drop(self._database, source.table, day)
                one.dropped.append(day)
            live = {part.location for part in metastore.parts(self._database, source.table).values()}
            _clean(spark, root, live, self._keep_seconds)
        return exported

    def _source(self, spark: SparkSession, table: str) -> _Source | None:
        """Return the table's newest snapshot, or None if it has none."""
        name = f"{self._catalog}.{self._namespace}.`{table}`"
        refs = spark.sql(f"select snapshot_id from {name}.refs where name = 'main'").collect()
        if not refs:
            return None
        files = spark.sql(f"select * from {name}.files version as of {refs[0].snapshot_id}").collect()
        by_day: dict[str, list[Any]] = {}
        for file in files:
            days = [value for value in (file.partition if "partition" in file else ()) if value is not None]
            if len(days) != 1 or not hasattr(days[0], "isoformat"):
                raise QuestlogError(f"table {table} is not partitioned by day of received_time")
            by_day.setdefault(days[0].isoformat(), []).append(file)
        marked = {
            day: (_mark(sorted(file.file_path for file in some)), sum(file.file_size_in_bytes for file in some))
            for day, some in by_day.items()
        }
        return _Source(table, refs[0].snapshot_id, spark.table(name).schema, marked)

    def _write(self, spark: SparkSession, source: _Source, day: str, location: str, size: int) -> int:
        """Write one day as a few large files, in types that Hive reads; return the number of rows."""
        from pyspark.sql.functions import col

        spark.conf.set("spark.sql.parquet.writeLegacyFormat", "true")
        spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
        frame = spark.sql(
            f"select * from {self._catalog}.{self._namespace}.`{source.table}` version as of {source.snapshot}"
            f" where received_time >= timestamp_ntz '{day}' and received_time < timestamp_ntz '{day}' + interval 1 day"
        )
        columns = [col(f"`{f.name}`").cast(plain_type(f.dataType)).alias(f.name) for f in frame.schema]
        files = max(1, -(-size // FILE_BYTES))
        frame.select(*columns).coalesce(files).write.mode("overwrite").option("compression", "snappy").parquet(location)
        return int(spark.read.parquet(location).count())


def plain_type(type_: DataType) -> DataType:
    """Return the type with TIMESTAMP for TIMESTAMP_NTZ: only that becomes INT96, which Hive reads."""
    from pyspark.sql.types import ArrayType, MapType, StructField, StructType, TimestampNTZType, TimestampType

    if isinstance(type_, TimestampNTZType):
        return TimestampType()
    if isinstance(type_, ArrayType):
        return ArrayType(plain_type(type_.elementType), type_.containsNull)
    if isinstance(type_, MapType):
        return MapType(plain_type(type_.keyType), plain_type(type_.valueType), type_.valueContainsNull)
    if isinstance(type_, StructType):
        return StructType([StructField(f.name, plain_type(f.dataType), f.nullable) for f in type_.fields])
    return type_


def hive_columns(schema: StructType) -> list[HiveColumn]:
    """Return the columns as Hive writes their types."""
    return [
        HiveColumn(f.name.lower(), plain_type(f.dataType).simpleString().lower(), f.metadata.get("comment", ""))
        for f in schema.fields
    ]


def _is_current(location: str, mark: str, had: Any, columns: Sequence[HiveColumn]) -> bool:
    """Return whether a day was written from the same files, and lacks only columns that were added since."""
    now = {column.name: column.type for column in columns}
    return location.rsplit("/", 1)[-1].startswith(f"{mark}-") and all(now.get(n) == t for n, t in had.items())


def _mark(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _clean(spark: SparkSession, root: str, live: set[str], keep_seconds: float) -> None:
    """Delete the folders that belong to no day and that no query or export can still be using."""
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path
    system = path(root).getFileSystem(spark._jsc.hadoopConfiguration())
    ends = {location.split("/", 3)[-1] for location in live}
    for status in system.globStatus(path(f"{root}/*=*/*")) or ():
        folder = status.getPath()
        if folder.toString().split("/", 3)[-1] in ends:
            continue
        replaced = path(folder, _REPLACED)
        if not system.exists(replaced):  # new queries no longer see these files; running ones may still read them
            system.create(replaced).close()
        elif time.time() - system.getFileStatus(replaced).getModificationTime() / 1000 > keep_seconds:
            system.delete(folder, True)
