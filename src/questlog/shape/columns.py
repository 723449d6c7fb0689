"""Rows -> Arrow tables, in the order of the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a table, with the index of each in the batch, in rising order."""

    table: str
    indices: Sequence[int]
    rows: pa.Table


def table_of_rows(schema: pa.Schema, rows: Sequence[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Return *rows* as a table of *schema*; a row has null in the columns it lacks."""
    columns = [
        pa.array([row.get(name) for _, row in rows], type_)
        for name, type_ in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def join_parts(parts: Iterable[Part]) -> dict[str, pa.Table]:
    """Return each table's rows in the order of the batch."""
    of_table: dict[str, list[Part]] = {}
    for part in parts:
        of_table.setdefault(part.table, []).append(part)
    return {name: _joined(group) for name, group in of_table.items()}


def _joined(parts: Sequence[Part]) -> pa.Table:
    if all(one.indices[-1] < two.indices[0] for one, two in pairwise(parts)):
        return pa.concat_tables([part.rows for part in parts])
    indices = [index for part in parts for index in part.indices]
    order = sorted(range(len(indices)), key=indices.__getitem__)
    return pa.concat_tables([part.rows for part in parts]).take(order)
