"""SHOW and DESCRIBE statements, as in Hive and Presto, answered with the plan's descriptions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from questlog.plan import Plan
from questlog.plan.columns import table_comment
from questlog.query.catalog import TableColumns, find_table
from questlog.query.text import quote_text, without_comments
from questlog.query.views import ViewColumn

SCHEMA = "main"
_NAME = r'((?:(?:"(?:[^"]|"")+"|\w+)\s*\.\s*)*(?:"(?:[^"]|"")+"|\w+))'
_END = r"\s*;*\s*$"
_SHOW_TABLES = re.compile(rf"show\s+tables(?:\s+(?:from|in)\s+{_NAME})?{_END}", re.I)
_SHOW_SCHEMAS = re.compile(rf"show\s+(?:schemas|databases)(?:\s+(?:from|in)\s+{_NAME})?{_END}", re.I)
_DESCRIBE = re.compile(rf"(?:describe|desc|show\s+columns\s+(?:from|in)|show)\s+(?:table\s+)?{_NAME}{_END}", re.I)
_SHOW_CREATE = re.compile(rf"show\s+create\s+(?:table|view)\s+{_NAME}{_END}", re.I)
_LAST = re.compile(r'"((?:[^"]|"")+)"$|(\w+)$')


def show(statement: str, plan: Callable[[], Plan], tables: Callable[[], TableColumns]) -> str | None:
    """Return a SELECT that answers a SHOW or DESCRIBE statement, or None if it is another kind.

    *plan* and *tables* are called only for a statement that needs them.
    """
    text = without_comments(statement)
    if not text[:5].lower().startswith(("show", "desc")):
        return None
    if _SHOW_TABLES.match(text):
        described = plan()
        return _values([("name", "comment"), *((name, table_comment(described, name)) for name in sorted(tables()))])
    if _SHOW_SCHEMAS.match(text):
        return _values([("name",), (SCHEMA,)])
    match = _SHOW_CREATE.match(text)
    if match:
        return _values([("statement",), (_create(*find_table(_last(match.group(1)), tables())),)])
    match = _DESCRIBE.match(text)
    if match and match.group(1).lower() not in ("all", "select"):
        _, columns = find_table(_last(match.group(1)), tables())
        return _values([("column", "type", "comment"), *((c.name, c.sql_type, c.comment) for c in columns)])
    return None


def _last(name: str) -> str:
    """Return the last part of a dotted name, without its quotes."""
    match = _LAST.search(name)
    assert match is not None
    return (match.group(1) or match.group(2)).replace('""', '"')


def _create(name: str, columns: Sequence[ViewColumn]) -> str:
    lines = [f"  {c.name} {c.sql_type}" + (f" comment {quote_text(c.comment)}" if c.comment else "") for c in columns]
    return f"create table {name} (\n" + ",\n".join(lines) + "\n)"


def _values(rows: Sequence[tuple[str, ...]]) -> str:
    """Return a SELECT of text *rows*; the first holds the names."""
    names, *cells = rows
    header = ", ".join(f'"{name}"' for name in names)
    if not cells:
        return f"select {', '.join(f'null::varchar as {chr(34)}{name}{chr(34)}' for name in names)} where false"
    body = ", ".join("(" + ", ".join(quote_text(cell) for cell in row) + ")" for row in cells)
    return f"select * from (values {body}) as shown({header})"
