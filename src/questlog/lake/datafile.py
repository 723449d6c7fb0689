"""Parquet files of a table: writes rows by day, merges small files, and describes each file for Iceberg."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.typedef import Record

from questlog.lake.fileio import NewFiles
from questlog.lake.parquet import METRICS, ROW_GROUP_ROWS, aligned, day_name, open_writer, split_by_day
from questlog.lake.schema import arrow_schema, names_by_id

ROW_GROUP_BYTES = 32 << 20
Heartbeat = Callable[[], None]
"""Shows that the lander is alive during long work."""


@dataclass(frozen=True, slots=True)
class FileLayout:
    """How the files of one schema are written; computed once per schema."""

    schema: Schema
    arrow: pa.Schema
    statistics: Mapping[int, Any]
    paths: Mapping[str, int]


@lru_cache(maxsize=64)
def _layout_of(text: str) -> FileLayout:
    schema = Schema.model_validate_json(text)
    arrow, paths = arrow_schema(schema), parquet_path_to_id_mapping(schema)
    return FileLayout(schema, arrow, compute_statistics_plan(schema, METRICS), paths)


def layout_of(schema: Schema) -> FileLayout:
    """Return the layout of files with this schema."""
    return _layout_of(schema.model_dump_json())


def write_rows(rows: pa.Table, layout: FileLayout, folder: Path, files: NewFiles) -> list[DataFile]:
    """Write *rows*, already aligned to the layout, as one file per day."""
    return [
        _write_file((part,), layout, _new_path(folder, day), day, files)
        for day, part in split_by_day(rows)
        if part.num_rows
    ]


def read_rows(path: str, layout: FileLayout) -> pa.Table:
    """Return the rows of a file of any age, aligned to the layout."""
    with pq.ParquetFile(path) as file:
        renamed = names_by_id(file.schema_arrow, layout.schema)
        return aligned(file.read().select(list(renamed)), layout.arrow, renamed)


def merge_files(
    paths: Sequence[str],
    day: int | None,
    layout: FileLayout,
    folder: Path,
    files: NewFiles,
    heartbeat: Heartbeat,
) -> DataFile:
    """Write the rows of several files of a day as one, in bounded memory; *heartbeat* is called regularly."""
    return _write_file(_row_groups(paths, layout, heartbeat), layout, _new_path(folder, day), day, files)


def _new_path(folder: Path, day: int | None) -> Path:
    return folder / f"received_day={day_name(day)}" / f"{uuid.uuid4()}.parquet"


def _row_groups(paths: Sequence[str], layout: FileLayout, heartbeat: Heartbeat) -> Iterator[pa.Table]:
    """Yield tables of about one row group each, in the order of the files."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for path in paths:
        heartbeat()
        with pq.ParquetFile(path) as file:
            renamed = names_by_id(file.schema_arrow, layout.schema)
            for batch in file.iter_batches(ROW_GROUP_ROWS):
                live = pa.Table.from_batches([batch]).select(
                    list(renamed)
                )  # without columns that another engine dropped
                table = aligned(live, layout.arrow, renamed)
                waiting.append(table)
                rows, size = rows + table.num_rows, size + table.nbytes
                if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
                    heartbeat()
                    yield pa.concat_tables(waiting)
                    waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)


def _write_file(
    parts: Sequence[pa.Table] | Iterator[pa.Table], layout: FileLayout, path: Path, day: int | None, files: NewFiles
) -> DataFile:
    with files.open(path) as stream:
        with open_writer(stream, layout.arrow) as writer:
            for part in parts:
                writer.write_table(part, row_group_size=ROW_GROUP_ROWS)
        stream.flush()
        size = stream.tell()
    statistics = data_file_statistics_from_parquet_metadata(
        writer.writer.metadata, dict(layout.statistics), dict(layout.paths)
    )
    file = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=str(path),
        file_format=FileFormat.PARQUET,
        partition=Record(day),
        file_size_in_bytes=size,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
        **statistics.to_serialized_dict(),
    )
    file.spec_id = 0
    return file
