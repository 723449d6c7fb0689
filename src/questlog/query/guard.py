"""Accept only statements that read: DuckDB's own parse tree is checked before anything runs.

DuckDB's settings restrict a statement too, but not enough: the lake's folder, which the views must read, could be
written by COPY, even in a WITH clause or inside EXPLAIN ANALYZE. So every node of the tree is checked, and a kind that
is not known to read is refused. A statement that DuckDB returns no tree for is refused as well; it is never judged by
its words, which names and strings can imitate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from questlog.errors import QueryError
from questlog.query.text import SqlToken, tokens

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
_TABLE_FUNCTIONS = {
    "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
    "generate_series", "json_each", "json_tree", "pragma_table_info", "pragma_version", "range", "repeat",
    "repeat_row", "summary", "unnest",
}  # fmt: skip
_REFUSED_FUNCTIONS = {"getenv", "nextval", "setval", "sleep_ms", "write_log"}
_QUERY_WORDS = {"pivot", "pivot_wider", "with", "from", "select"}
_SYSTEM_SCHEMAS = {"information_schema", "pg_catalog"}
_SYSTEM_TABLES = {"duckdb_columns", "duckdb_tables", "duckdb_views", "sqlite_master"}
_FILE_NAME = re.compile(r"[./\\*?:]")


@dataclass(frozen=True, slots=True)
class Reading:
    """A statement that only reads, as it may run: `statement` is the text whose tree was checked.

    `tables` are those it reads, in lower case; `everything` if it may read any of them.
    """

    statement: str
    tables: frozenset[str] = frozenset()
    everything: bool = False


def check_reads(connection: DuckDBPyConnection, statement: str) -> Reading:
    """Return what *statement* reads, and the text to run.

    Raise `QueryError` unless it is one statement that can do nothing but read the project's tables.
    """
    prefix, rest = _split_explain(statement)
    tree = _parsed(connection, rest)
    if tree is None:
        raise _without_tree(rest)
    tables, everything = _check_tree(tree)
    # never the text as it came: what runs must end and begin where the tree does
    return Reading(prefix + rest, tables, everything)


def _split_explain(statement: str) -> tuple[str, str]:
    """Return EXPLAIN with its options, written again from its words, and the statement it explains."""
    waiting = [SqlToken("space", " ") if token.kind == "comment" else token for token in tokens(statement)]
    while waiting and waiting[0].kind == "space":
        waiting.pop(0)
    if not waiting or not waiting[0].is_word("explain"):
        return "", statement
    prefix = []
    while waiting and (waiting[0].is_word("explain", "analyze") or waiting[0].kind == "space"):
        prefix.append(waiting.pop(0).text)
    if waiting and waiting[0].text == "(" and _are_options(waiting):
        while prefix[-1] != ")":
            prefix.append(waiting.pop(0).text)
    return "".join(prefix) + " ", "".join(token.text for token in waiting)


def _are_options(waiting: Sequence[SqlToken]) -> bool:
    """Return whether what *waiting* begins with are options such as `(analyze, format json)`: words and commas."""
    words = [token for token in waiting[1:] if token.kind != "space"]
    if not words or not words[0].is_word("analyze", "format"):
        return False
    inner = list(takewhile(lambda token: token.text != ")", words))
    return len(inner) < len(words) and all(token.kind == "word" or token.text == "," for token in inner)


def _without_tree(statement: str) -> QueryError:
    """Return why a statement that has no tree is refused."""
    words = [token.text.lower() for token in tokens(statement) if token.kind == "word"]
    if any(word in ("pivot", "pivot_wider") for word in words) and words[0] in _QUERY_WORDS:
        return QueryError(
            "this PIVOT must list its values: without IN, it cannot be checked before it runs",
            hint="PIVOT … ON column IN ('first', 'second')",
        )
    return _refusal(words[0].upper() if words else "this statement")


def _parsed(connection: DuckDBPyConnection, statement: str) -> Any:
    """Return the statement's tree; None for a kind that has none, such as COPY, or PIVOT without IN."""
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


def _check_tree(tree: Any) -> tuple[frozenset[str], bool]:
    """Return the tables that *tree* reads, and whether it may read any; raise `QueryError` if it may do more."""
    tables: set[str] = set()
    common: set[str] = set()  # names of common table expressions
    everything = False
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        _check_node(node, kind)
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            everything = everything or name.startswith(("duckdb_", "pragma_"))
        elif kind in ("BASE_TABLE", "SHOW_REF"):
            schema = str(node.get("schema_name") or "").lower()
            name = str(node.get("table_name") or "").lower()
            if node.get("show_type") == "SHOW_SPECIAL" or schema in _SYSTEM_SCHEMAS or name in _SYSTEM_TABLES:
                everything = True
            elif name:
                tables.add(name)
        if isinstance(node.get("cte_map"), dict):
            common |= {str(entry["key"]).lower() for entry in node["cte_map"].get("map", [])}
        if kind in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
            common.add(str(node.get("cte_name", "")).lower())
    return frozenset(tables - common), everything


def _check_node(node: dict[str, Any], kind: str) -> None:
    """Raise `QueryError` if this node of a tree may do more than read the project's tables."""
    query = node.get("node")  # each query, also one in a WITH clause, is the "node" of its parent
    for query_kind in (kind if kind.endswith("_NODE") else "", query.get("type") if isinstance(query, dict) else ""):
        if query_kind and query_kind not in _READING_NODES:
            raise _refusal(str(query_kind).split("_", 1)[0])
    if kind == "TABLE_FUNCTION" and str(node["function"]["function_name"]).lower() not in _TABLE_FUNCTIONS:
        raise _refusal(f"{node['function']['function_name']}()")
    if kind == "FUNCTION" and str(node.get("function_name", "")).lower() in _REFUSED_FUNCTIONS:
        raise _refusal(f"{node['function_name']}()")
    if kind in ("BASE_TABLE", "SHOW_REF") and _FILE_NAME.search(str(node.get("table_name") or "")):
        raise _refusal(f"the file name {node['table_name']!r}")


def _refusal(what: str) -> QueryError:
    return QueryError(f"{what} is refused: only statements that read this project's tables are accepted")
