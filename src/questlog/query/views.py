"""One table as an SQL view: its files, mapped by Iceberg field id, and its tail, with the plan's names and types."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from questlog.lake.evolve import plan_type
from questlog.plan.columns import ENVELOPE, LAST, Column
from questlog.plan.evolve import widest
from questlog.query.text import quote_name, quote_text
from questlog.types import SCALARS, Type


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """A column as a query sees it. `field_id` identifies it in the files; `in_tail`: the plan still has it."""

    name: str
    type: Type
    comment: str
    field_id: int | None
    in_tail: bool

    @property
    def sql_type(self) -> str:
        """The DuckDB type, in lower case."""
        return sql_type(self.type)


def sql_type(type_: Type) -> str:
    """Return the DuckDB type of a plan type."""
    if type_.kind == "decimal":
        return f"decimal({type_.precision},{type_.scale})"
    if type_.kind == "struct":
        return "struct(" + ", ".join(f"{quote_name(n)} {sql_type(t)}" for n, t in type_.fields) + ")"
    if type_.kind in ("list", "map"):
        assert type_.item is not None
        inner = sql_type(type_.item)
        return f"{inner}[]" if type_.kind == "list" else f"map(varchar, {inner})"
    return SCALARS[type_.kind].duckdb.lower()


@lru_cache(maxsize=256)
def _lake_fields(schema: str) -> dict[str, tuple[int, Type, str]]:
    """Return name -> (field id, type, comment) of an Iceberg schema."""
    fields = json.loads(schema).get("fields", [])
    return {f["name"]: (int(f["id"]), plan_type(f["type"]), f.get("doc") or "") for f in fields}


def view_columns(planned: Sequence[Column], schema: str) -> list[ViewColumn]:
    """Return the plan's columns, then those that only old files have; each type is wide enough for both.

    Until the next landing renames it, the lake has a renamed column under its alias.
    """
    lake = _lake_fields(schema) if schema else {}
    columns, used = [], set()
    for column in planned:
        name = next((n for n in (column.name, *column.aliases) if n in lake), None)
        field_id, type_ = None, column.type
        if name is not None:
            used.add(name)
            field_id, in_lake, _ = lake[name]
            try:
                type_ = widest(in_lake, column.type)
            except ValueError:  # a plan that no lander accepts; a string holds any value of both
                type_ = Type("string")
        columns.append(ViewColumn(column.name, type_, column.comment, field_id, True))
    names = {column.name for column in columns}
    for name, (field_id, type_, comment) in lake.items():
        if name not in used and name not in names:
            columns.append(ViewColumn(name, type_, comment, field_id, False))
    return columns


def view_sql(columns: Sequence[ViewColumn], files: Sequence[str], tail: str | None) -> str:
    """Return a SELECT over *files* and the relation *tail*; columns that one side lacks are NULL there."""
    parts = []
    if files:
        mapped = ", ".join(
            f"{c.field_id}: {{name: {quote_text(c.name)}, type: {quote_text(c.sql_type)}, default_value: NULL}}"
            for c in columns
            if c.field_id is not None
        )
        paths = ", ".join(quote_text(path) for path in files)
        parts.append(_select(columns, f"read_parquet([{paths}], schema = map {{{mapped}}})", lake=True))
    if tail is not None:
        parts.append(_select(columns, quote_name(tail), lake=False))
    if not parts:
        nothing = ", ".join(f"cast(null as {c.sql_type}) as {quote_name(c.name)}" for c in columns)
        parts.append(f"select {nothing} where false")
    return " union all ".join(parts)


def _select(columns: Sequence[ViewColumn], source: str, *, lake: bool) -> str:
    terms = []
    for column in columns:
        name = quote_name(column.name)
        if column.field_id is not None if lake else column.in_tail:
            terms.append(name if lake else f"cast({name} as {column.sql_type}) as {name}")
        else:
            terms.append(f"cast(null as {column.sql_type}) as {name}")
    return f"select {', '.join(terms)} from {source}"


def events_columns(tables: Mapping[str, Sequence[ViewColumn]], headers: Sequence[str]) -> list[ViewColumn]:
    """Return the columns that every event table has: the envelope, the kept headers and the last ones."""
    comments = {column.name: column for columns in tables.values() for column in columns}
    names = [c.name for c in ENVELOPE] + list(headers) + [c.name for c in LAST]
    types = {c.name: c.type for c in (*ENVELOPE, *LAST)}
    return [
        ViewColumn(n, types.get(n, Type("string")), comments[n].comment if n in comments else "", None, True)
        for n in names
    ]


def events_sql(shared: Sequence[ViewColumn], tables: Mapping[str, Sequence[ViewColumn]]) -> str:
    """Return a SELECT of the *shared* columns over all *tables*."""
    parts = []
    for table, columns in tables.items():
        have = {column.name for column in columns}
        terms = [
            quote_name(c.name) if c.name in have else f"cast(null as {c.sql_type}) as {quote_name(c.name)}"
            for c in shared
        ]
        parts.append(f"select {', '.join(terms)} from {quote_name(table)}")
    return " union all ".join(parts) or view_sql(shared, (), None)
