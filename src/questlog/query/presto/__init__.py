"""Presto or Trino over the cluster's Iceberg tables, with the same statements, results and formats as on a laptop."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING

import duckdb

from questlog.errors import QueryError, QuestlogError
from questlog.plan import Plan
from questlog.plan.columns import EVENTS_VIEW
from questlog.query import Params
from questlog.query.catalog import TableColumns, event_tables, shared_columns, unknown_table
from questlog.query.presto.client import PrestoAnswer, PrestoError, PrestoServer, run
from questlog.query.presto.committed import Committed, read_committed
from questlog.query.presto.types import arrow_table, parse_type, plan_type
from questlog.query.result import Result
from questlog.query.show import show
from questlog.query.text import only_statement, quote_text, tokens, without_comments
from questlog.query.views import ViewColumn, events_sql

if TYPE_CHECKING:
    import pyarrow as pa

_READS = re.compile(r"(?:\(\s*)*(?:select|with|values|table|show|describe|desc)\b", re.I)
_EXPLAIN = re.compile(r"explain\s+(?:analyze\s+)?(?:verbose\s+)?(?:\((?:[^()']|'[^']*')*\)\s*(?!$))?", re.I)
_MISSING = re.compile(r"Table (?:'?[\w.\"]+\.)?\"?(\w+)\"?'? does not exist")
_PARAMETER = re.compile(r"\?|\$(\w+)")


class PrestoEngine:
    """A `QueryEngine` over landed events; a statement may run for *seconds*."""

    def __init__(self, server: PrestoServer, plan: Callable[[], Plan], *, seconds: float = 600.0) -> None:
        self._server, self._plan, self._seconds = server, plan, seconds
        self._lock = threading.Lock()
        self._view = ""

    def sql(self, text: str, params: Params = ()) -> pa.Table:
        """Run one statement that reads; anything else raises `QueryError` and changes nothing."""
        return self.run(text, params).arrow()

    def run(self, text: str, params: Params = ()) -> Result:
        """Run one statement that reads, over every event landed before the call."""
        statement = with_values(only_statement(text), params)
        shown = show(statement, self._plan, self._tables_with_events)
        if shown is not None:
            return Result(_open_memory().sql(shown))
        check_reads(statement)
        if not re.search(rf"\b{EVENTS_VIEW}\b", statement, re.I):
            return _result(self._answer(statement))
        self.refresh_events()
        try:
            return _result(self._answer(statement))
        except PrestoError as error:
            if "view" not in str(error).lower():
                raise
            self._view = ""  # the other engine has rewritten it
            self.refresh_events()
            return _result(self._answer(statement))

    def tables(self) -> dict[str, list[ViewColumn]]:
        """Return the name and columns of every table and view, with the plan's descriptions."""
        text = (
            "select table_name, column_name, data_type, comment from information_schema.columns"
            f" where table_schema = {quote_text(self._server.schema)} order by table_name, ordinal_position"
        )
        try:
            rows = self._answer(text).rows
        except PrestoError as error:
            if "Invalid view" not in str(error) or EVENTS_VIEW in self._plan().tables:
                raise
            # Trino has rewritten our view, and Presto cannot even list the columns of a schema that contains it
            self._answer(f"create or replace view {EVENTS_VIEW} as select 1 as rewritten")
            self._view = ""
            rows = self._answer(text).rows
        tables: dict[str, list[ViewColumn]] = {}
        for table, name, type_, comment in rows:
            column = ViewColumn(name, plan_type(parse_type(type_)), comment or "", None, True)
            tables.setdefault(table, []).append(column)
        if EVENTS_VIEW in tables and EVENTS_VIEW not in self._plan().tables:  # a view has no comments
            notes = {c.name: c.comment for columns in event_tables(tables).values() for c in columns}
            tables[EVENTS_VIEW] = [replace(c, comment=c.comment or notes.get(c.name, "")) for c in tables[EVENTS_VIEW]]
        return tables

    def refresh_events(self) -> None:
        """Update the view `events` to the present event tables and their columns.

        The view is stored in the catalog, so that Presto's own command line sees it too.
        """
        tables = self.tables()
        types = {name: columns for name, columns in event_tables(tables).items() if _is_event_table(columns)}
        if not types or (EVENTS_VIEW in tables and EVENTS_VIEW in self._plan().tables):
            return
        shared = shared_columns(self._plan(), types)
        text = f"create or replace view {EVENTS_VIEW} as {events_sql(shared, types)}"
        with self._lock:
            if text != self._view or EVENTS_VIEW not in tables:
                self._answer(text)
                self._view = text

    @property
    def address(self) -> str:
        """The engine and its address, for a message."""
        return f"{self._server.dialect} at {self._server.url}"

    def committed(self, seconds: float) -> Committed:
        """Return what the tables hold, by their snapshots; a statement may take *seconds*."""
        return read_committed(self._server, seconds)

    def close(self) -> None:
        """Do nothing: no connection is kept open between statements."""

    def _answer(self, statement: str) -> PrestoAnswer:
        try:
            return run(self._server, statement, self._seconds)
        except PrestoError as error:
            missing = _MISSING.search(str(error))
            if missing and "information_schema" not in statement:
                raise unknown_table(missing.group(1), self.tables()) from error
            raise

    def _tables_with_events(self) -> TableColumns:
        self.refresh_events()
        return self.tables()


def open_engine(
    options: Mapping[str, str], schema: str, plan: Callable[[], Plan], *, seconds: float = 600.0
) -> PrestoEngine:
    """Return the engine of *options*: `url`, `user`, `password`, `ca.location`, `catalog`."""
    unknown = sorted(options.keys() - _OPTIONS.keys())
    if unknown:
        raise QuestlogError(f"presto: unknown setting {unknown[0]}", hint=f"settings: {', '.join(_OPTIONS)}")
    values = {**_OPTIONS, **options}
    if not re.fullmatch(r"(?:trino\+)?https?://[^/@]+/?", values["url"]):
        raise QuestlogError(
            f"presto: {_masked(values['url'])!r} is not a valid address",
            hint="http://HOST:PORT, or trino+https://HOST:PORT for Trino; set user and password separately",
        )
    server = PrestoServer(
        values["url"], values["catalog"], schema, values["user"], values["password"], values["ca.location"]
    )
    return PrestoEngine(server, plan, seconds=seconds)


_OPTIONS = {
    "url": "http://127.0.0.1:8080", "user": "questlog", "password": "", "ca.location": "", "catalog": "iceberg",
}  # fmt: skip


def _masked(url: str) -> str:
    """Return the address without a user and password, since messages are logged."""
    before, at, host = url.rpartition("@")
    return f"{before.partition('//')[0]}//…@{host}" if at else url


def _is_event_table(columns: Sequence[ViewColumn]) -> bool:
    return {"event_id", "event_type", "received_time"} <= {column.name for column in columns}


def _result(answer: PrestoAnswer) -> Result:
    """Return the rows as a DuckDB result, which has the same formats as on a laptop."""
    table = arrow_table(answer.columns, answer.rows)
    return Result(_open_memory().from_arrow(table))


def _open_memory() -> duckdb.DuckDBPyConnection:
    """Open an empty database that presents times with a zone in UTC, regardless of this process's zone."""
    database = duckdb.connect(":memory:")
    database.execute("set global timezone = 'UTC'")
    return database


def check_reads(statement: str) -> None:
    """Raise `QueryError` unless *statement* only reads.

    In Presto's grammar, a statement that begins with one of these words is a query to its end. `explain` is followed by
    another statement, which `explain analyze` runs.
    """
    text = without_comments(statement, ansi=True)
    text = _EXPLAIN.sub("", text, count=1) if text[:7].lower() == "explain" else text
    if not _READS.match(text):
        word = text.split(None, 1)[0] if text.split() else "nothing"
        raise QueryError(
            f"{word} is refused: only statements that read are accepted", hint="use select, show, describe or explain"
        )


def with_values(statement: str, params: Params) -> str:
    """Return *statement* with `?`, `$1` and `$name` replaced by SQL literals, except in quotes and comments."""
    if not params:
        return statement
    unnamed = iter(params if not isinstance(params, Mapping) else ())
    used = 0

    def value(match: re.Match[str]) -> str:
        nonlocal used
        used += 1
        name = match.group(1)
        try:
            if name is None:
                return literal(next(unnamed))
            if isinstance(params, Mapping):
                return literal(params[name])
            return literal(params[int(name) - 1])
        except (LookupError, StopIteration, ValueError) as error:
            raise QueryError(f"no value was given for {match.group()}") from error

    out = []
    quoted = ("string", "name", "comment")
    for is_code, group in groupby(tokens(statement, ansi=True), lambda token: token.kind not in quoted):
        text = "".join(token.text for token in group)
        out.append(_PARAMETER.sub(value, text) if is_code else text)
    if not used:
        raise QueryError(
            "the statement has no parameters, but values were given", hint="mark parameters with ? or $name"
        )
    return "".join(out)


def literal(value: object) -> str:
    """Return a Python value as an SQL literal."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return f"decimal '{value:f}'"
    if isinstance(value, float):
        return f"double {quote_text(str(value)) if value == value else quote_text('NaN')}"
    if isinstance(value, str):
        return quote_text(value)
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    if isinstance(value, dt.datetime):
        utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
        return f"timestamp '{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03}'"
    if isinstance(value, dt.date):
        return f"date '{value:%Y-%m-%d}'"
    raise QueryError(f"cannot pass a {type(value).__name__} as a parameter")


__all__ = ["PrestoEngine", "PrestoServer", "check_reads", "literal", "open_engine", "with_values"]
