"""Writes rows as Parquet: the table's columns, one file per day. Needs no PyIceberg, for Spark's workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from questlog.errors import QuestlogError

ROW_GROUP_ROWS = 65_536
DAY_COLUMN = "received_time"
UNLIKE = frozenset({"event_id", "raw_event", "event_time", "received_time"})
"""Columns whose values hardly ever repeat: dictionaries for them would waste a quarter of the writer's time."""
METRICS = {
    # Bounds of every column would copy players' data into manifests, where erasure would have to find it.
    "write.metadata.metrics.default": "counts",
    "write.metadata.metrics.column.received_time": "full",
    "write.metadata.metrics.column.event_time": "full",
}


def aligned(rows: pa.Table, target: pa.Schema, renamed: Mapping[str, str] | None = None) -> pa.Table:
    """Return *rows* with exactly the columns of *target*: cast to its types, null where missing."""
    names = {(renamed or {}).get(name, name): name for name in rows.column_names}
    lost = names.keys() - set(target.names)
    if lost or len(names) < rows.num_columns:
        raise QuestlogError(f"no column for {', '.join(sorted(lost)) or 'a field'}", hint="report this as a defect")
    columns = [
        rows.column(names[field.name]).cast(field.type)
        if field.name in names
        else pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
        for field in target
    ]
    return pa.Table.from_arrays(columns, schema=target)


def split_by_day(rows: pa.Table) -> list[tuple[int, pa.Table]]:
    """Return the rows of each day of received time; there is nearly always one."""
    days = rows.column(DAY_COLUMN).cast(pa.date32(), safe=False).cast(pa.int32())
    bounds = pc.min_max(days)
    if bounds["min"] == bounds["max"]:
        return [(bounds["min"].as_py(), rows)]
    return [(day, rows.filter(pc.equal(days, day))) for day in sorted(pc.unique(days).to_pylist())]


def day_name(day: int | None) -> str:
    """Return a day of `split_by_day` as it appears in folder names."""
    return "null" if day is None else str(pa.scalar(day, pa.int32()).cast(pa.date32()).as_py().isoformat())


def open_writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """Return a writer for rows aligned to *schema*, which holds Iceberg's field ids."""
    repeating = [path for field in schema if not _is_unlike(field) for path in _leaves(field.name, field.type)]
    return pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=repeating, store_schema=False, store_decimal_as_integer=True
    )


def parquet_bytes(rows: pa.Table) -> bytes:
    """Return a file with *rows*, which must already be aligned."""
    sink = pa.BufferOutputStream()
    with open_writer(sink, rows.schema) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    return bytes(sink.getvalue())


def _is_unlike(field: pa.Field) -> bool:
    return field.name in UNLIKE or pa.types.is_floating(field.type)


def _leaves(path: str, type_: pa.DataType) -> Iterator[str]:
    """Yield the paths of a column's values, as Parquet names them."""
    if pa.types.is_struct(type_):
        for member in type_:
            yield from _leaves(f"{path}.{member.name}", member.type)
    elif pa.types.is_map(type_):
        yield from _leaves(f"{path}.key_value.key", type_.key_type)
        yield from _leaves(f"{path}.key_value.value", type_.item_type)
    elif pa.types.is_list(type_):
        yield from _leaves(f"{path}.list.element", type_.value_type)
    else:
        yield path
