"""The columns a plan gives each table, as an Arrow schema whose field metadata holds descriptions."""

from __future__ import annotations

import pyarrow as pa

from questlog.plan import Plan, Type
from questlog.plan.columns import ENVELOPE, LAST, QUARANTINE_COLUMNS, Column, table_columns
from questlog.plan.columns import header_column as header_column

TIMESTAMP = pa.timestamp("us")  # values are whole milliseconds: Presto prints ms but compares us
_SCALARS = {
    "string": pa.string(), "bool": pa.bool_(), "int": pa.int32(), "long": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "timestamp": TIMESTAMP, "date": pa.date32(),
    "binary": pa.binary(),
}  # fmt: skip


def arrow_type(type_: Type) -> pa.DataType:
    """Return the Arrow type that holds *type_*."""
    if type_.kind == "decimal":
        return pa.decimal128(type_.precision, type_.scale)
    if type_.kind == "list":
        assert type_.item is not None
        return pa.list_(arrow_type(type_.item))
    if type_.kind == "map":
        assert type_.item is not None
        return pa.map_(pa.string(), arrow_type(type_.item))
    if type_.kind == "struct":
        return pa.struct([(name, arrow_type(inner)) for name, inner in type_.fields])
    return _SCALARS[type_.kind]


def _fields(columns: tuple[Column, ...]) -> list[pa.Field]:
    return [pa.field(c.name, arrow_type(c.type), metadata={"comment": c.comment}) for c in columns]


ENVELOPE_COLUMNS = tuple((c.name, arrow_type(c.type), c.comment) for c in ENVELOPE)
LAST_COLUMNS = tuple((c.name, arrow_type(c.type), c.comment) for c in LAST)
QUARANTINE = pa.schema(_fields(QUARANTINE_COLUMNS))


def table_schema(plan: Plan, table: str) -> pa.Schema:
    """Return the columns of *table*: the envelope, kept headers, declared fields, what is left."""
    return pa.schema(_fields(table_columns(plan, table)))
