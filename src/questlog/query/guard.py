"""Only reading statements: what DuckDB's own parser understood is checked before anything runs.

DuckDB's settings lock the doors as well, but they leave one open: the lake's folder, which the views
must read, could be written by COPY, even inside EXPLAIN ANALYZE. So the parsed statement is walked, and
whatever is not known to read only is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from questlog.errors import QueryError
from questlog.query.text import without_comments

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLE_FUNCTIONS = {
    "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
    "generate_series", "json_each", "json_tree", "pragma_table_info", "pragma_version", "range", "repeat",
    "repeat_row", "summary", "unnest",
}  # fmt: skip
_REFUSED_FUNCTIONS = {"getenv", "nextval", "setval", "sleep_ms", "write_log"}
_SYSTEM_SCHEMAS = {"information_schema", "pg_catalog"}
_SYSTEM_TABLES = {"duckdb_columns", "duckdb_tables", "duckdb_views", "sqlite_master"}
_EXPLAIN = re.compile(r"explain\s+(?:analyze\s+|\([^)]*\)\s*)*", re.I)
_DOES = re.compile(
    r"(?:^|\(|\bas\s+(?:not\s+materialized\s+|materialized\s+)?|\banalyze\s+|;)\s*"
    r"(copy|insert|update|delete|merge|create|drop|alter|attach|detach|install|load|export|import|set|reset"
    r"|pragma|call|execute|prepare|vacuum|checkpoint|truncate|use|begin|comment)\b",
    re.I,
)
_CALLS = re.compile(r'(?:\b(\w+)|"([^"]+)")\s*\(')
_STRINGS = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.S)
_FILE_NAME = re.compile(r"[\"'][^\"']*(?:[/\\]|\.(?:parquet|csv|tsv|json\w*|ndjson|db|duckdb|txt|gz|zst)\b)", re.I)


@dataclass(frozen=True, slots=True)
class Reading:
    """The tables a statement reads, in lower case; `everything` if it may read any of them."""

    tables: frozenset[str] = frozenset()
    everything: bool = False


def check_reads(connection: DuckDBPyConnection, statement: str) -> Reading:
    """Return what *statement* reads.

    Raise `QueryError` unless it is one statement that can do nothing but read the project's tables.
    """
    tree = _parsed(connection, statement)
    if tree is not None:
        return _check_tree(tree)
    bare = without_comments(statement)
    explained = _EXPLAIN.match(bare)
    if explained:
        return check_reads(connection, bare[explained.end() :])
    _check_pivot(connection, bare)
    return Reading(everything=True)


def _parsed(connection: DuckDBPyConnection, statement: str) -> Any:
    """Return the statement's tree; None for a kind that has none: EXPLAIN, PIVOT over values it must look up."""
    ((text,),) = connection.execute("select json_serialize_sql(?::varchar)", [statement]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError:
        raise QueryError("the statement is nested too deeply") from None
    if not tree["error"]:
        if len(tree["statements"]) != 1:
            raise QueryError(f"{len(tree['statements'])} statements; run one at a time")
        return tree
    if tree.get("error_type") == "parser":
        raise QueryError(_parser_message(statement, tree))
    return None


def _parser_message(statement: str, tree: dict[str, Any]) -> str:
    message = str(tree["error_message"])
    if not str(tree.get("position", "")).isdigit():
        return message
    at = int(tree["position"])  # in bytes
    before = statement.encode()[:at].decode("utf-8", "replace")
    number, start = before.count("\n") + 1, before.rfind("\n") + 1
    line = (statement + "\n")[start:].split("\n", 1)[0]
    label = f"line {number}: "
    return f"{message}\n{label}{line}\n{' ' * (len(label) + len(before) - start)}^"


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _check_tree(tree: Any) -> Reading:
    tables: set[str] = set()
    own: set[str] = set()
    everything = False
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _READING_NODES:
            raise _refusal(kind.split("_", 1)[0])
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in _TABLE_FUNCTIONS:
                raise _refusal(f"{name}()")
            everything = everything or name.startswith(("duckdb_", "pragma_"))
        elif kind == "FUNCTION" and str(node.get("function_name", "")).lower() in _REFUSED_FUNCTIONS:
            raise _refusal(f"{node['function_name']}()")
        elif kind in ("BASE_TABLE", "SHOW_REF"):
            schema = str(node.get("schema_name") or "").lower()
            name = str(node.get("table_name") or "").lower()
            if node.get("show_type") == "SHOW_SPECIAL" or schema in _SYSTEM_SCHEMAS or name in _SYSTEM_TABLES:
                everything = True
            elif name:
                tables.add(name)
        if isinstance(node.get("cte_map"), dict):
            own |= {str(entry["key"]).lower() for entry in node["cte_map"].get("map", [])}
        if kind in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
            own.add(str(node.get("cte_name", "")).lower())
    return Reading(frozenset(tables - own), everything)


def _check_pivot(connection: DuckDBPyConnection, bare: str) -> None:
    """Accept a PIVOT that looks its values up (the one reading statement without a tree) by its words."""
    statements = connection.extract_statements(bare)
    kind = str(statements[0].type).rsplit(".", 1)[-1].upper() if len(statements) == 1 else "SEVERAL"
    if kind not in ("MULTI", "SELECT") or not re.match(r"(?:pivot|with|from|select|\()", bare, re.I):
        raise _refusal(kind)
    words = _STRINGS.sub("''", bare)
    does = _DOES.search(words)
    if does:
        raise _refusal(does.group(1).upper())
    if _FILE_NAME.search(bare):
        raise _refusal("a file name")
    rows = connection.execute("select distinct function_name from duckdb_functions() where function_type = 'table'")
    refused = {str(name) for (name,) in rows.fetchall()} - _TABLE_FUNCTIONS | _REFUSED_FUNCTIONS
    for found in _CALLS.finditer(words):
        name = (found.group(1) or found.group(2)).lower()
        if name in refused:
            raise _refusal(f"{name}()")


def _refusal(what: str) -> QueryError:
    return QueryError(f"{what} is refused: only statements that read this project's tables are accepted")
