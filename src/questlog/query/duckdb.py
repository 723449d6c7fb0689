"""DuckDB over landed files and everything logged after them: an acknowledged event is in the next query."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from questlog.errors import QueryError
from questlog.lake.state import LakeState, connect, find_seen, read_state
from questlog.log import Log, merge
from questlog.plan import Plan
from questlog.plan.schema import ENVELOPE_COLUMNS, LAST_COLUMNS, table_schema
from questlog.shape import QUARANTINE, never_seen, shape

_ALLOWED = {"SELECT", "EXPLAIN"}
_SHOW_COLUMNS = re.compile(r"^\s*show\s+columns\s+(?:from|in)\s+(\S+?)\s*;?\s*$", re.I)
_DESCRIBE = re.compile(r"^\s*(?:describe|desc)\s+([\w.\"]+)\s*;?\s*$", re.I)
_SHOW_CREATE = re.compile(r"^\s*show\s+create\s+(?:table|view)\s+(\S+?)\s*;?\s*$", re.I)
_SHOW_TABLES = re.compile(r"^\s*show\s+tables\s*;?\s*$", re.I)
_SHOW_SCHEMAS = re.compile(r"^\s*show\s+schemas\s*;?\s*$", re.I)


class Result:
    """The rows of one statement."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._table

    def df(self) -> Any:
        """Return the rows as a pandas frame."""
        return self._table.to_pandas()

    def pl(self) -> Any:
        """Return the rows as a Polars frame."""
        import polars

        return polars.from_arrow(self._table)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples."""
        return list(zip(*(c.to_pylist() for c in self._table.columns), strict=True)) or []


class DuckDBEngine:
    """Keeps the contract of `QueryEngine`; any process may run one, none needs another's help."""

    def __init__(self, log: Log, plan: Callable[[], Plan], catalog_path: Path, data: Path) -> None:
        self._log, self._plan, self._catalog, self._data = log, plan, catalog_path, data

    def sql(self, text: str, params: Sequence[object] = ()) -> pa.Table:
        """Run one reading statement."""
        return self.run(text, params).arrow()

    def run(self, text: str, params: Sequence[object] = ()) -> Result:
        """Run one reading statement over what is acknowledged now."""
        with closing(duckdb.connect(":memory:")) as connection:
            schemas = self._attach(connection)
            special = _special(text, schemas)
            if special is not None:
                return Result(special)
            _refuse_writing(connection, text)
            try:
                table = connection.sql(text, params=list(params)).to_arrow_table()
            except duckdb.Error as error:
                raise QueryError(str(error), hint="questlog sql 'show tables'") from error
            return Result(table)

    def _attach(self, connection: duckdb.DuckDBPyConnection) -> dict[str, pa.Schema]:
        """Create one view per table over its files and its tail, then close the doors."""
        plan = self._plan()
        state, tail = self._snapshot(plan)
        connection.execute("set python_enable_replacements = false")
        connection.execute("set timezone = 'UTC'")
        schemas: dict[str, pa.Schema] = {}
        for name in sorted({*plan.tables, *state.tables, QUARANTINE}):
            schema = table_schema(plan, name) if name in plan.tables or name == QUARANTINE else None
            parts = []
            if name in state.tables and state.tables[name].files:
                files = ", ".join(_literal(path) for path in state.tables[name].files)
                parts.append(
                    f"select * exclude (received_day) from (select *, null as received_day from "
                    f"read_parquet([{files}], union_by_name = true))"
                )
            if schema is not None:
                rows = tail.get(name)
                connection.register(f"_tail_{name}", rows if rows is not None else schema.empty_table())
                parts.append(f"select * from _tail_{name}")
            if parts:
                columns = _known_columns(connection, parts, schema)
                body = " union all by name ".join(parts)
                connection.execute(f'create view "{name}" as select {columns} from ({body})')
                schemas[name] = schema if schema is not None else pa.schema([])
        self._create_events_view(connection, plan, [n for n in schemas if n != QUARANTINE])
        lake = _literal(str(self._data / "lake") + "/")
        connection.execute(f"set allowed_directories = [{lake}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        return schemas

    def _create_events_view(self, connection: duckdb.DuckDBPyConnection, plan: Plan, names: list[str]) -> None:
        shared = [n for n, _, _ in ENVELOPE_COLUMNS] + [n for n, _, _ in LAST_COLUMNS]
        columns = ", ".join(f'"{c}"' for c in shared)
        body = " union all ".join(f'select {columns} from "{name}"' for name in names)
        if body:
            connection.execute(f"create view events as {body}")

    def _snapshot(self, plan: Plan) -> tuple[LakeState, dict[str, pa.Table]]:
        """Return the landed state and the tail after it.

        1 catalog  2 log: in this order, so that whatever leaves the tail meanwhile is not missed.
        """
        if not self._catalog.exists():
            batch = self._log.read({}, 2**62)
            return LakeState(), dict(shape(batch.entries, plan, gaps=batch.gaps).tables)
        with closing(connect(self._catalog)) as catalog:
            state = read_state(catalog)
            batch = self._log.read(state.progress, 2**62)
            held = {name: merge(table.position, state.progress) for name, table in state.tables.items()}
            seen = partial(find_seen, catalog) if catalog else never_seen
            shaped = shape(batch.entries, plan, held=held, seen=seen, gaps=batch.gaps)
        return state, dict(shaped.tables)


def _known_columns(connection: duckdb.DuckDBPyConnection, parts: list[str], schema: pa.Schema | None) -> str:
    """Return the plan's columns first, then those that only old files have."""
    if schema is None:
        return "*"
    names = list(schema.names)
    found = connection.execute(f"describe {parts[0]}").fetchall()
    names += [row[0] for row in found if row[0] not in names]
    return ", ".join(f'"{name}"' for name in names)


def _special(text: str, schemas: dict[str, pa.Schema]) -> pa.Table | None:
    """Answer the statements analysts know from Hive and Presto, with the plan's descriptions."""
    if _SHOW_TABLES.match(text):
        return pa.table({"name": pa.array(sorted([*schemas, "events"]), pa.string())})
    if _SHOW_SCHEMAS.match(text):
        return pa.table({"name": pa.array(["main"], pa.string())})
    match = _SHOW_COLUMNS.match(text) or _DESCRIBE.match(text)
    if match:
        name = match.group(1).strip('"').split(".")[-1].lower()
        if name in schemas:
            schema = schemas[name]
            comments = [(f.metadata or {}).get(b"comment", b"").decode() for f in schema]
            return pa.table(
                {
                    "column": pa.array(schema.names, pa.string()),
                    "type": pa.array([sql_type(f.type) for f in schema], pa.string()),
                    "comment": pa.array(comments, pa.string()),
                }
            )
    match = _SHOW_CREATE.match(text)
    if match:
        name = match.group(1).strip('"').split(".")[-1].lower()
        if name not in schemas:
            raise QueryError(f"there is no table {name}", hint="questlog sql 'show tables'")
        lines = ",\n".join(f"  {f.name} {sql_type(f.type)}" for f in schemas[name])
        return pa.table({"statement": pa.array([f"create table {name} (\n{lines}\n)"], pa.string())})
    return None


def sql_type(type_: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type."""
    if pa.types.is_list(type_):
        return sql_type(type_.value_type) + "[]"
    if pa.types.is_map(type_):
        return f"map({sql_type(type_.key_type)}, {sql_type(type_.item_type)})"
    if pa.types.is_struct(type_):
        return "struct(" + ", ".join(f"{f.name} {sql_type(f.type)}" for f in type_) + ")"
    if pa.types.is_decimal(type_):
        return f"decimal({type_.precision},{type_.scale})"
    names = {
        "string": "varchar", "bool": "boolean", "int32": "integer", "int64": "bigint", "float": "float",
        "double": "double", "timestamp[us]": "timestamp", "date32[day]": "date", "binary": "blob",
    }  # fmt: skip
    return names.get(str(type_), str(type_))


def _refuse_writing(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    try:
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements; run one at a time")
    kind = str(statements[0].type).rsplit(".", 1)[-1].upper()
    if kind not in _ALLOWED:
        raise QueryError(f"{kind} is refused: only reading statements are accepted")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
