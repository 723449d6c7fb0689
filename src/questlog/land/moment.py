"""The time of landing, which only the lander can know: written into the rows just before they are committed."""

from __future__ import annotations

import pyarrow as pa

from questlog.plan.columns import LANDED_TIME


def landed_at(rows: pa.Table, now_ms: int) -> pa.Table:
    """Return *rows* with the time of their landing, if they have a column for it."""
    index = rows.schema.get_field_index(LANDED_TIME)
    if index < 0:
        return rows
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.repeat(pa.scalar(now_ms * 1000, pa.int64()).cast(field.type), len(rows)))
