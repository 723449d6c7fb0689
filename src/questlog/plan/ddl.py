"""A plan's tables as CREATE TABLE statements of an SQL engine, descriptions as comments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from questlog.plan import Plan, Type
from questlog.plan.columns import QUARANTINE_TABLE, Column, table_columns, table_comment
from questlog.types import SCALARS, Scalar


@dataclass(frozen=True, slots=True)
class _Dialect:
    """How one engine writes names, texts, types, and what stands behind the columns."""

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
    """Yield what creates each table of *plan*, and `quarantine`, in one of `DIALECTS`; no semicolons."""
    speech = _DIALECTS[dialect]
    for table in (*plan.tables, QUARANTINE_TABLE):
        yield from _statements(table, table_columns(plan, table), table_comment(plan, table), speech)


def create_statement(table: str, columns: Sequence[Column], comment: str, dialect: str) -> str:
    """Return what creates a table of *columns*, whether a plan has it or not; a dialect with comments inside."""
    (statement,) = _statements(table, columns, comment, _DIALECTS[dialect])
    return statement


def _statements(table: str, described: Sequence[Column], comment: str, speech: _Dialect) -> Iterator[str]:
    columns = [(speech.name(c.name), _type_name(c.type, speech), c.comment) for c in described]
    lines = []
    for name, type_, note in columns:
        said = f" COMMENT {speech.text(note)}" if note and speech.inline_comments else ""
        lines.append(f"  {name} {type_}{said}")
    end = speech.end.format(comment="\nCOMMENT " + speech.text(comment) if comment else "")
    yield f"CREATE TABLE {speech.name(table)} (\n" + ",\n".join(lines) + "\n)" + end
    if not speech.inline_comments:
        if comment:
            yield f"COMMENT ON TABLE {speech.name(table)} IS {speech.text(comment)}"
        for name, _, note in columns:
            if note:
                yield f"COMMENT ON COLUMN {speech.name(table)}.{name} IS {speech.text(note)}"


def _type_name(type_: Type, speech: _Dialect) -> str:
    if type_.kind == "decimal":
        return f"DECIMAL({type_.precision},{type_.scale})"
    if type_.kind == "struct":
        members = [speech.member.format(speech.name(name), _type_name(inner, speech)) for name, inner in type_.fields]
        return speech.struct.format(", ".join(members))
    if type_.kind in ("list", "map"):
        assert type_.item is not None
        pattern = speech.list if type_.kind == "list" else speech.map
        return pattern.format(_type_name(type_.item, speech))
    return speech.scalar(SCALARS[type_.kind])
