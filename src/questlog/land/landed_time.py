"""The landing time of rows: only the lander knows it, so it is written just before they are committed."""

from __future__ import annotations

import pyarrow as pa

from questlog.plan.columns import LANDED_TIME


def with_landed_time(rows: pa.Table, now_ms: int) -> pa.Table:
    """Return *rows* with `landed_time` set to *now_ms*, if they have that column."""
    index = rows.schema.get_field_index(LANDED_TIME)
    if index < 0:
        return rows
    field = rows.schema.field(index)
    return rows.set_column(index, field, pa.repeat(pa.scalar(now_ms * 1000, pa.int64()).cast(field.type), len(rows)))
