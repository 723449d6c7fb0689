"""Files -> one snapshot, through Iceberg's own Java API: no Spark job, and no row passes the JVM."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from questlog.errors import LakeUnavailable
from questlog.lake.parquet import DAY_COLUMN, day_name
from questlog.land.spark.fence import Fence
from questlog.land.spark.ids import DAY_MS, IDS_DAY
from questlog.land.spark.states import STATE


@dataclass(frozen=True, slots=True)
class File:
    """A Parquet file that lies nowhere yet: its day, or None in a table without days; how many rows; its bytes."""

    day: int | None
    rows: int
    data: bytes


class Commits:
    """Iceberg's classes, looked up once: each look costs a trip to the JVM."""

    def __init__(self, jvm: Any) -> None:
        iceberg = jvm.org.apache.iceberg
        self._files, self._configs = iceberg.DataFiles, iceberg.MetricsConfig
        self._memory, self._parquet = iceberg.inmemory.InMemoryInputFile, iceberg.parquet.ParquetUtil
        self._expressions = iceberg.expressions.Expressions

    def append(self, table: Any, files: Sequence[File], state: str | None, fence: Fence) -> None:
        """Add *files* and *state* to Iceberg's *table* in one snapshot; what fails leaves files that upkeep removes.

        Raises what the *fence* says if it refuses.
        """
        append = table.newAppend().validateWith(fence)
        for file in files:
            append.appendFile(self._put(table, file))
        _commit(append if state is None else append.set(STATE, state), fence)

    def delete(self, table: Any, column: str, below: int, fence: Fence) -> None:
        """Take the files out whose rows all have less than *below* in *column*; fails if a file has others too.

        Raises what the *fence* says if it refuses.
        """
        rows = self._expressions.lessThan(column, below)
        _commit(table.newDelete().deleteFromRowFilter(rows).validateWith(fence), fence)

    def _put(self, table: Any, file: File) -> Any:
        """Write the file to its place, and return what Iceberg must know of it."""
        spec, name = table.spec(), f"{uuid.uuid4()}.parquet"
        partition = _partition(table, spec, file.day)
        location = table.locationProvider().newDataLocation(f"{partition}/{name}" if partition else name)
        stream = table.io().newOutputFile(location).create()
        try:
            stream.write(file.data)
        finally:
            stream.close()
        # The statistics come from the bytes at hand: reading the file back would ask HDFS again.
        metrics = self._parquet.fileMetrics(self._memory(file.data), self._configs.forTable(table))
        found = self._files.builder(spec).withPath(location).withFormat("parquet")
        found = found.withFileSizeInBytes(len(file.data)).withMetrics(metrics)
        return (found.withPartitionPath(partition) if partition else found).build()


def _commit(update: Any, fence: Fence) -> None:
    from py4j.protocol import Py4JJavaError

    try:
        update.commit()
    except Py4JJavaError:
        fence.explain()
        raise


def _partition(table: Any, spec: Any, day: int | None) -> str:
    if spec.isUnpartitioned():
        return ""
    fields = [(f.name(), f.transform().toString(), spec.schema().findColumnName(f.sourceId())) for f in spec.fields()]
    if len(fields) == 1 and day is not None:
        ((name, *split),) = fields
        if split == ["day", DAY_COLUMN]:
            return f"{name}={day_name(day)}"
        if split == list(IDS_DAY):
            return f"{name}={day * DAY_MS}"
    raise LakeUnavailable(
        f"{table.name()} is partitioned by {', '.join(f'{t}({c})' for _, t, c in fields)}",
        hint=f"questlog lands into tables without partitions, or by day({DAY_COLUMN}) alone",
    )
