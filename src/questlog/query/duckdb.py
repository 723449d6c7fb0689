"""DuckDB over landed files and everything logged after them: an acknowledged event is in the very next query."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from questlog.errors import QueryError
from questlog.lake.guard import check_not_lost
from questlog.lake.state import LakeState, connect_lake, find_seen, read_state
from questlog.log import LogReader
from questlog.plan import Plan
from questlog.plan.columns import EVENTS_VIEW, QUARANTINE_TABLE, table_columns
from questlog.query import Params
from questlog.query.catalog import TableColumns, event_tables, shared_columns, unknown_table
from questlog.query.guard import Reading, check_reads
from questlog.query.result import Result
from questlog.query.show import show
from questlog.query.tail import Tail
from questlog.query.text import only_statement, quote_name, quote_text
from questlog.query.views import ViewColumn, events_sql, view_columns, view_sql

if TYPE_CHECKING:
    import pyarrow as pa

    from questlog.query.pivot import Pivot

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The landed state, and the tail that begins exactly where it ends."""

    plan: Plan
    state: LakeState
    tail: Mapping[str, pa.Table]

    def columns(self) -> dict[str, list[ViewColumn]]:
        """Return the columns of each table of the plan and the lake, and of quarantine."""
        columns = {}
        for name in sorted({*self.plan.tables, *self.state.tables, QUARANTINE_TABLE}):
            planned = table_columns(self.plan, name) if name in self.plan.tables or name == QUARANTINE_TABLE else ()
            columns[name] = view_columns(planned, self.state.tables[name].schema if name in self.state.tables else "")
        return columns


class DuckDBEngine:
    """A `QueryEngine` inside this process, safe for any number of threads. It needs no other process.

    A query may run for *seconds*, and DuckDB's buffers may use *memory_mb*.
    """

    def __init__(
        self,
        log: LogReader,
        plan: Callable[[], Plan],
        catalog_path: Path,
        data: Path,
        *,
        seconds: float = 600.0,
        memory_mb: int = 2048,
    ) -> None:
        self._log, self._plan, self._catalog_path = log, plan, catalog_path
        self._lake = data / "lake"
        self._seconds, self._memory_mb = seconds, memory_mb
        self._reset()
        _engines.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._tail = Tail(self._log)
        self._database: duckdb.DuckDBPyConnection | None = None
        self._catalog: sqlite3.Connection | None = None

    def _leave_to_parent(self) -> None:
        """Start over in a forked child: it inherits its parent's locks and connections, and must not close them."""
        _keep_forever(self._database, self._catalog)
        self._reset()

    def sql(self, text: str, params: Params = ()) -> pa.Table:
        """Run one statement that reads; anything else raises `QueryError` and changes nothing."""
        return self.run(text, params).arrow()

    def run(self, text: str, params: Params = ()) -> Result:
        """Run one statement that reads, over every event acknowledged before the call."""
        statement = only_statement(text)
        if self._pid != os.getpid():
            self._leave_to_parent()
        for attempt in range(_ATTEMPTS):
            cursor = self._cursor()
            try:
                return self._attempt(cursor, statement, params)
            except duckdb.IOException as error:
                # a merge has replaced a file since the list was read: a new list has its rows in another file
                cursor.close()
                if attempt + 1 == _ATTEMPTS or not _is_missing_file(error):
                    raise _explained(error) from error
            except duckdb.Error as error:
                cursor.close()
                raise _explained(error) from error
            except BaseException:
                cursor.close()
                raise
        raise AssertionError("unreachable")

    def tables(self) -> TableColumns:
        """Return the name and columns of every table and of the view `events`."""
        state = LakeState()
        with self._lock:
            if self._catalog_path.exists():
                state = read_state(self._open_catalog())
        snapshot = _Snapshot(self._plan(), state, {})
        columns = snapshot.columns()
        return {**columns, **_events(snapshot.plan, columns)}

    def holdings(self) -> tuple[LakeState, Mapping[str, pa.Table]]:
        """Return the landed state, and the rows of the tail that begins exactly where it ends."""
        snapshot = self._snapshot()
        return snapshot.state, snapshot.tail

    def close(self) -> None:
        """Release memory and files; the next query reopens them."""
        with self._lock:
            if self._pid == os.getpid():
                for connection in (self._database, self._catalog):
                    if connection is not None:
                        connection.close()
            self._database = self._catalog = None
            self._tail.forget()

    def _attempt(self, cursor: duckdb.DuckDBPyConnection, statement: str, params: Params) -> Result:
        """Run a statement.  1 answer SHOW  2 check that it only reads  3 take a snapshot  4 attach tables  5 run"""
        runs = show(statement, self._plan, self.tables)
        if runs is None:
            runs = self._readable(cursor, statement)
        values: Any = dict(params) if isinstance(params, Mapping) else list(params)
        relation = self._within(cursor, lambda: cursor.sql(runs, params=values or None).materialize())
        return Result(relation)

    def _readable(self, cursor: duckdb.DuckDBPyConnection, statement: str) -> str:
        """Return the text to run, after attaching the tables it reads; the values of a PIVOT are looked up."""
        pivot = _pivot(statement)
        if pivot is None:
            reading = check_reads(cursor, statement)
            _attach(cursor, self._snapshot(), reading)
            return reading.statement
        readings = [check_reads(cursor, lookup) for lookup in pivot.lookups()]
        snapshot = self._snapshot()
        values = []
        for reading in readings:
            _attach(cursor, snapshot, reading)
            rows = self._within(cursor, partial(_rows, cursor, reading.statement))
            values.append([str(value) for (value,) in rows])
        reading = check_reads(cursor, pivot.with_values(values))
        _attach(cursor, snapshot, reading)
        return reading.statement

    def _within(self, cursor: duckdb.DuckDBPyConnection, work: Callable[[], Any]) -> Any:
        """Run *work*; stop it at the time limit, or when the caller presses Ctrl-C.

        DuckDB checks for signals too rarely in the main thread: Ctrl-C took minutes. So another thread does the work,
        and this one waits.
        """
        done = threading.Event()
        outcome: list[tuple[Any, BaseException | None]] = []

        def run() -> None:
            try:
                outcome.append((work(), None))
            except BaseException as error:
                outcome.append((None, error))
            done.set()

        threading.Thread(target=run, name="questlog-query", daemon=True).start()
        try:
            finished = done.wait(self._seconds)
        except BaseException:
            _interrupt(cursor, done)
            raise
        if not finished:
            _interrupt(cursor, done)
            raise QueryError(f"stopped after {self._seconds:g} s", hint="QUESTLOG_QUERY_SECONDS allows more")
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def _snapshot(self) -> _Snapshot:
        """Return the landed state and the tail after it.

        1 catalog  2 log  3 seen ids, in this order: no record that leaves the tail in between is missed.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                plan = self._plan()
                state, seen = LakeState(), None
                if self._catalog_path.exists():
                    catalog = self._open_catalog()
                    state, seen = read_state(catalog), partial(find_seen, catalog)
                else:
                    check_not_lost(self._catalog_path)
                positions = {name: table.position for name, table in state.tables.items()}
                tail, gaps = self._tail.rows(plan, state.checkpoint, positions, seen or _never_seen)
                if not gaps or not self._moved(state):
                    break
                self._tail.forget()  # the gap may be records that were landed and trimmed since the catalog was read
            return _Snapshot(plan, state, tail)

    def _moved(self, state: LakeState) -> bool:
        return self._catalog_path.exists() and read_state(self._open_catalog()) != state

    def _open_catalog(self) -> sqlite3.Connection:
        if self._catalog is None:
            self._catalog, _ = connect_lake(self._catalog_path, self._lake)
        return self._catalog

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a new connection to the restricted database."""
        with self._lock:
            if self._database is None:
                self._database = _open_database(self._lake, self._memory_mb)
            return self._database.cursor()


def _pivot(statement: str) -> Pivot | None:
    if "pivot" not in statement.lower():
        return None
    from questlog.query.pivot import read_pivot  # few statements need it

    return read_pivot(statement)


def _rows(cursor: duckdb.DuckDBPyConnection, statement: str) -> list[Any]:
    return cursor.sql(statement).fetchall()


def _open_database(lake: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    """Open an empty in-memory database that may read only the lake's folder, with its settings locked.

    The time zone is set globally: a cursor does not inherit a setting of its connection's session.
    """
    database = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "memory_limit": f"{memory_mb}MB",
            "python_enable_replacements": "false",
            "temp_directory": "",
        },
    )
    database.execute(
        "set global timezone = 'UTC'; set parquet_metadata_cache = true;"
        f"set allowed_directories = [{quote_text(str(lake) + '/')}];"
        "set enable_external_access = false; set lock_configuration = true"
    )
    return database


def _attach(cursor: duckdb.DuckDBPyConnection, snapshot: _Snapshot, reading: Reading) -> None:
    """Create the views that a statement reads, for this cursor only."""
    columns = snapshot.columns()
    shared = _events(snapshot.plan, columns)
    names = {name.lower() for name in (*columns, *shared)}
    for name in sorted(reading.tables - names):
        raise unknown_table(name, (*columns, *shared))
    every = reading.everything or (EVENTS_VIEW in reading.tables and EVENTS_VIEW in shared)
    for name, described in columns.items():
        if every or name.lower() in reading.tables:
            tail = None
            if name in snapshot.tail:
                tail = f"_tail_{name}"
                cursor.register(tail, snapshot.tail[name])
            files = snapshot.state.tables[name].files if name in snapshot.state.tables else ()
            cursor.execute(f"create or replace temp view {quote_name(name)} as {view_sql(described, files, tail)}")
    if every and EVENTS_VIEW in shared:
        cursor.execute(
            f"create or replace temp view {EVENTS_VIEW} as {events_sql(shared[EVENTS_VIEW], event_tables(columns))}"
        )


def _events(plan: Plan, columns: TableColumns) -> TableColumns:
    """Return the view `events` and its columns; nothing if an older plan has a table of that name."""
    return {} if EVENTS_VIEW in columns else {EVENTS_VIEW: shared_columns(plan, columns)}


def _keep_forever(*parents: object) -> None:
    """Keep these from being closed: closing a database whose threads exist only in the parent crashes."""
    for each in parents:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


_engines: weakref.WeakSet[DuckDBEngine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Keep every engine's inherited connections open, even those of engines that await garbage collection."""
    for engine in list(_engines):
        engine._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _interrupt(cursor: duckdb.DuckDBPyConnection, done: threading.Event) -> None:
    """Stop the running statement; repeat every tenth of a second, since it may be between two statements."""
    while not done.wait(0.1):
        with contextlib.suppress(duckdb.Error):
            cursor.interrupt()


def _is_missing_file(error: duckdb.Error) -> bool:
    return any(words in str(error) for words in ("No files found", "Cannot open file", "No such file"))


def _never_seen(event_id: str) -> None:
    """Return None: no id has been seen before the first landing."""


def _explained(error: duckdb.Error) -> QueryError:
    """Return the engine's message as a `QueryError`, without the name of DuckDB's exception."""
    text = str(error)
    kind, _, rest = text.partition(": ")
    text = rest if kind.endswith("Error") else text
    return QueryError(text.strip(), hint="questlog sql 'show tables'" if "Catalog" in kind else "")
