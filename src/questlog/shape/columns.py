"""Rows -> Arrow tables, in the order of the log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a table's rows, with the place of each in the batch, in order."""

    table: str
    places: Sequence[int]
    rows: pa.Table


def table_of_rows(schema: pa.Schema, rows: Sequence[tuple[int, dict[str, Any]]]) -> pa.Table:
    """Return *rows* as a table of *schema*; a column that a row lacks is null there."""
    columns = [
        pa.array([row.get(name) for _, row in rows], type_)
        for name, type_ in zip(schema.names, schema.types, strict=True)
    ]
    return pa.table(columns, schema=schema)


def join_parts(parts: Iterable[Part]) -> dict[str, pa.Table]:
    """Return each table's rows in the order of their places."""
    of_table: dict[str, list[Part]] = {}
    for part in parts:
        of_table.setdefault(part.table, []).append(part)
    return {name: _joined(found) for name, found in of_table.items()}


def _joined(parts: Sequence[Part]) -> pa.Table:
    if all(one.places[-1] < two.places[0] for one, two in pairwise(parts)):
        return pa.concat_tables([part.rows for part in parts])
    places = [place for part in parts for place in part.places]
    order = sorted(range(len(places)), key=places.__getitem__)
    return pa.concat_tables([part.rows for part in parts]).take(order)
