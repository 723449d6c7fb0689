"""A plan's tables as CREATE TABLE statements for a SQL engine, with descriptions as comments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from questlog.plan import Plan, Type
from questlog.plan.columns import QUARANTINE_TABLE, Column, table_columns, table_comment
from questlog.types import SCALARS, Scalar


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How one engine writes names, texts, types, and the clauses after the columns."""

    name: Callable[[str], str]
    text: Callable[[str], str]
    scalar: Callable[[Scalar], str]
    list: str
    map: str
    struct: str
    member: str
    inline_comments: bool
    end: str


def _quoted(letter: str) -> Callable[[str], str]:
    return lambda text: letter + text.replace(letter, letter * 2) + letter


def _spark_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_DIALECTS = {
    "duckdb": _Dialect(
        _quoted('"'), _quoted("'"),
        attrgetter("duckdb"),
        "{0}[]", "MAP(VARCHAR, {0})", "STRUCT({0})", "{0} {1}", False, "",
    ),
    "spark": _Dialect(
        _quoted("`"), _spark_text,
        attrgetter("spark"),
        "ARRAY<{0}>", "MAP<STRING, {0}>", "STRUCT<{0}>", "{0}: {1}", True,
        "\nUSING iceberg{comment}\nPARTITIONED BY (days(received_time))",
    ),
    "presto": _Dialect(
        _quoted('"'), _quoted("'"),
        attrgetter("presto"),
        "ARRAY({0})", "MAP(VARCHAR, {0})", "ROW({0})", "{0} {1}", True,
        "{comment}\nWITH (partitioning = ARRAY['day(received_time)'])",
    ),
}  # fmt: skip
DIALECTS = tuple(_DIALECTS)


def create_statements(plan: Plan, dialect: str) -> Iterator[str]:
    """Yield statements, without semicolons, that create the tables of *plan* and `quarantine` in one of `DIALECTS`."""
    for table in (*plan.tables, QUARANTINE_TABLE):
        yield from _statements(table, table_columns(plan, table), table_comment(plan, table), _DIALECTS[dialect])


def create_statement(table: str, columns: Sequence[Column], comment: str, dialect: str) -> str:
    """Return the one statement that creates a table of any *columns*, in a dialect with inline comments."""
    (statement,) = _statements(table, columns, comment, _DIALECTS[dialect])
    return statement


def _statements(table: str, described: Sequence[Column], comment: str, dialect: _Dialect) -> Iterator[str]:
    columns = [(dialect.name(c.name), _type_name(c.type, dialect), c.comment) for c in described]
    lines = []
    for name, type_, note in columns:
        suffix = f" COMMENT {dialect.text(note)}" if note and dialect.inline_comments else ""
        lines.append(f"  {name} {type_}{suffix}")
    end = dialect.end.format(comment="\nCOMMENT " + dialect.text(comment) if comment else "")
    yield f"CREATE TABLE {dialect.name(table)} (\n" + ",\n".join(lines) + "\n)" + end
    if not dialect.inline_comments:
        if comment:
            yield f"COMMENT ON TABLE {dialect.name(table)} IS {dialect.text(comment)}"
        for name, _, note in columns:
            if note:
                yield f"COMMENT ON COLUMN {dialect.name(table)}.{name} IS {dialect.text(note)}"


def _type_name(type_: Type, dialect: _Dialect) -> str:
    if type_.kind == "decimal":
        return f"DECIMAL({type_.precision},{type_.scale})"
    if type_.kind == "struct":
        members = [
            dialect.member.format(dialect.name(name), _type_name(inner, dialect)) for name, inner in type_.fields
        ]
        return dialect.struct.format(", ".join(members))
    if type_.kind in ("list", "map"):
        assert type_.item is not None
        pattern = dialect.list if type_.kind == "list" else dialect.map
        return pattern.format(_type_name(type_.item, dialect))
    return dialect.scalar(SCALARS[type_.kind])
