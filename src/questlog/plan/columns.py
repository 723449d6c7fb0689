"""The columns a plan gives each table, in the plan's own types and as an Arrow schema.

Arrow is imported when a schema is asked for: a query starts faster without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from questlog.plan import Plan, Type
from questlog.types import SCALARS

if TYPE_CHECKING:
    import pyarrow as pa

QUARANTINE_TABLE = "quarantine"
"""The table of events that could not be shaped."""
EVENTS_VIEW = "events"
"""The view over the events of every type."""
LANDED_TIME = "landed_time"
"""The one column that shape leaves empty; the lander fills it."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. `aliases` are the names it had in earlier plans."""

    name: str
    type: Type
    comment: str = ""
    aliases: tuple[str, ...] = ()


_STRING, _LONG, _TIMESTAMP = Type("string"), Type("long"), Type("timestamp")
ENVELOPE = (
    Column("event_id", _STRING, "Unique id of the event."),
    Column("event_type", _STRING, "The event's type in the plan."),
    Column(
        "event_time", _TIMESTAMP, "When it happened, UTC: device_time, corrected if the sender's clock error is known."
    ),
    Column("device_time", _TIMESTAMP, "When it happened, by the sender's clock."),
    Column("sent_time", _TIMESTAMP, "When it was sent, by the sender's clock."),
    Column("received_time", _TIMESTAMP, "When questlog received it, UTC."),
    Column(LANDED_TIME, _TIMESTAMP, "When it landed, UTC; null while it is in the tail."),
    Column(
        "clock_skew_ms", _LONG, "received_time minus sent_time in milliseconds: how far the sender's clock is behind."
    ),
    Column("player_id", _STRING, "The player."),
    Column("session_id", _STRING, "The session."),
    Column("sequence", _LONG, "The sender's sequence number."),
)
LAST = (
    Column("_rescued", _STRING, "JSON of fields that are not in the plan or do not fit it."),
    Column("raw_event", _STRING, "The event as it was sent."),
    Column("plan_version", _STRING, "Version of the plan that shaped this row."),
)
QUARANTINE_COLUMNS = (
    Column("event_id", _STRING, "Unique id of the event."),
    Column("event_type", _STRING, "The type that the event names, if it could be read."),
    Column("received_time", _TIMESTAMP, "When questlog received it, UTC."),
    Column("reason", _STRING, "Stable reason code."),
    Column("field", _STRING, "Path of the field that does not fit."),
    Column("detail", _STRING, "What is wrong, in words."),
    Column("raw_event", _STRING, "The event as it was sent; bytes that are not UTF-8 are escaped."),
    Column("record", Type("binary"), "The whole record from the log, byte for byte."),
    Column("log_partition", Type("int"), "Its partition of the log."),
    Column("log_offset", _LONG, "Its offset in that partition."),
    Column("plan_version", _STRING, "Version of the plan that it does not fit."),
)


def table_comment(plan: Plan, table: str) -> str:
    """Return the description of a table, or of the view `events`: for its events, the plan's words."""
    if table == QUARANTINE_TABLE:
        return "Events that could not be shaped, each with its reason and its bytes."
    if table == EVENTS_VIEW and table not in plan.tables:
        return "Every event of every type, with the columns they share."
    return " ".join(event.description for event in plan.tables.get(table, []) if event.description)


def header_column(header: str) -> str:
    """Return the column of a kept header: User-Agent -> user_agent."""
    return header.lower().replace("-", "_")


def table_columns(plan: Plan, table: str) -> tuple[Column, ...]:
    """Return the columns of *table*: the envelope, kept headers, declared fields, then those every table ends with."""
    if table == QUARANTINE_TABLE:
        return QUARANTINE_COLUMNS
    columns = list(ENVELOPE)
    columns += [Column(header_column(h), _STRING, f"Request header {h}.") for h in plan.headers]
    seen = {column.name for column in columns}
    for event in plan.tables.get(table, []):
        for field in event.fields:
            if field.name not in seen:
                seen.add(field.name)
                columns.append(Column(field.name, field.type, field.description, field.aliases))
    return (*columns, *LAST)


def table_schema(plan: Plan, table: str) -> pa.Schema:
    """Return the columns of *table* as an Arrow schema whose field metadata holds their comments."""
    import pyarrow as pa

    columns = table_columns(plan, table)
    return pa.schema([pa.field(c.name, arrow_type(c.type), metadata={"comment": c.comment}) for c in columns])


def arrow_type(type_: Type) -> pa.DataType:
    """Return the Arrow type that holds *type_*."""
    import pyarrow as pa

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
    return pa.type_for_alias(SCALARS[type_.kind].arrow)
