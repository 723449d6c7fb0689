"""Rows and lists of values -> Arrow columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa


def table_of_rows(schema: pa.Schema, rows: Sequence[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Return *rows* as a table of *schema*; a column that a row lacks is null there."""
    columns = [
        pa.array([row.get(name) for _, row in rows], type_)
        for name, type_ in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)
