"""The columns a plan gives each table, as an Arrow schema whose field metadata holds descriptions."""

from __future__ import annotations

import pyarrow as pa

from questlog.plan import Plan, Type

TIMESTAMP = pa.timestamp("us")  # values are whole milliseconds: Presto prints ms but compares us
_SCALARS = {
    "string": pa.string(), "bool": pa.bool_(), "int": pa.int32(), "long": pa.int64(),
    "float": pa.float32(), "double": pa.float64(), "timestamp": TIMESTAMP, "date": pa.date32(),
}  # fmt: skip
ENVELOPE_COLUMNS = (
    ("event_id", pa.string(), "Unique id of the event."),
    ("event_type", pa.string(), "Which event this is, by the plan."),
    ("event_time", TIMESTAMP, "When it happened, UTC; the sender's time, or received_time without one."),
    ("received_time", TIMESTAMP, "When questlog received it, UTC."),
    ("player_id", pa.string(), "Who played."),
    ("session_id", pa.string(), "In which session."),
    ("sequence", pa.int64(), "The sender's running number."),
)
LAST_COLUMNS = (
    ("_rescued", pa.string(), "JSON of fields the plan does not know or that did not fit."),
    ("raw_event", pa.string(), "The event as it was sent."),
    ("plan_version", pa.string(), "The plan that shaped this row."),
)
QUARANTINE = pa.schema(
    [
        pa.field(name, type_, metadata={"comment": comment})
        for name, type_, comment in (
            ("event_id", pa.string(), "Unique id of the event."),
            ("event_type", pa.string(), "The type it claims, if one could be read."),
            ("received_time", TIMESTAMP, "When questlog received it, UTC."),
            ("reason", pa.string(), "Stable reason code."),
            ("field", pa.string(), "Path of the field that caused it."),
            ("detail", pa.string(), "What was wrong, in words."),
            ("raw_event", pa.string(), "The event as it was sent; bytes that are not UTF-8 are escaped."),
            ("record", pa.binary(), "The whole record as logged, byte for byte."),
            ("log_partition", pa.int32(), "Where it stands in the log."),
            ("log_offset", pa.int64(), "Where it stands in the log."),
            ("plan_version", pa.string(), "The plan that refused it."),
        )
    ]
)


def header_column(header: str) -> str:
    """Return the column of a kept header: User-Agent -> user_agent."""
    return header.lower().replace("-", "_")


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


def table_schema(plan: Plan, table: str) -> pa.Schema:
    """Return the columns of *table*: the envelope, kept headers, declared fields, what is left."""
    if table == "quarantine":
        return QUARANTINE
    columns = [pa.field(n, t, metadata={"comment": c}) for n, t, c in ENVELOPE_COLUMNS]
    columns += [
        pa.field(header_column(h), pa.string(), metadata={"comment": f"Request header {h}."}) for h in plan.headers
    ]
    seen = {column.name for column in columns}
    for event in plan.tables.get(table, []):
        for field in event.fields:
            if field.name not in seen:
                seen.add(field.name)
                columns.append(pa.field(field.name, arrow_type(field.type), metadata={"comment": field.description}))
    columns += [pa.field(n, t, metadata={"comment": c}) for n, t, c in LAST_COLUMNS]
    return pa.schema(columns)
