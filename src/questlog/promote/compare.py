"""The same questions on both sides: the project's saved queries, or statements that fit any project.

docs/decisions/0013 has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from questlog.errors import QuestlogError
from questlog.query import QueryEngine
from questlog.query.text import quote_name, split_statements

FOLDER = "queries"
PLACES = frozenset(("landed_time", "log_partition", "log_offset"))
"""When and where a row was landed: for rows that both sides landed after the copy, each has its own."""
WHOLE_ROWS = 10_000
"""Of a larger table, only this many rows, the first by id, are compared value by value."""
_DIGITS = 1e-9
"""The relative difference allowed between floats: a sum depends on the order of its terms. All else must be equal."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One statement, with a name for it."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Side:
    """The answer of one side, or the error instead. `only` are rows that the other side does not have."""

    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    only: Sequence[Row] = field(default_factory=tuple)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both answers to one question."""

    question: Question
    laptop: Side
    cluster: Side
    equal: bool


def questions(root: Path, tables: Sequence[str], rows: dict[str, int]) -> list[Question]:
    """Return the questions: every table's counts, then the saved queries, or standard statements if there are none."""
    asked = [_counts(name) for name in tables]
    saved = sorted((root / FOLDER).glob("*.sql"))
    for path in saved:
        statements = split_statements(path.read_text("utf-8"))
        for number, statement in enumerate(statements, 1):
            name = path.stem if len(statements) == 1 else f"{path.stem} {number}"
            asked.append(Question(name, statement))
    return asked if saved else asked + list(_standard(tables, rows))


def _counts(table: str) -> Question:
    counts = "count(*) as events, count(distinct event_id) as ids, min(received_time) as first_received"
    return Question(f"count {table}", f"select {counts}, max(received_time) as last_received from {quote_name(table)}")


def _standard(tables: Sequence[str], rows: dict[str, int]) -> Iterator[Question]:
    """Yield the statements that an analyst types first, for the tables that exist."""
    yield Question("show tables", "show tables")
    for name in tables:
        quoted = quote_name(name)
        yield Question(f"describe {name}", f"describe {quoted}")
        limit = "" if rows.get(name, 0) <= WHOLE_ROWS else f" order by event_id limit {WHOLE_ROWS}"
        yield Question(f"rows of {name}", f"select * from {quoted}{limit}")
    if "join_guild" in tables:
        yield Question("guilds by host", "select host as host, count(*) as count from join_guild group by host")
        yield Question("guilds", "select count(*) as count from join_guild")


def compare(asked: Sequence[Question], laptop: QueryEngine, cluster: QueryEngine) -> Iterator[Comparison]:
    """Ask both sides each question in turn."""
    for question in asked:
        ours, theirs = _ask(laptop, question), _ask(cluster, question)
        if ours.error or theirs.error:
            yield Comparison(question, ours, theirs, False)
            continue
        only_ours, only_theirs = differences(ours, theirs)
        equal = not only_ours and not only_theirs and sorted(ours.columns) == sorted(theirs.columns)
        yield Comparison(
            question, Side(ours.columns, ours.rows, only_ours), Side(theirs.columns, theirs.rows, only_theirs), equal
        )


def _ask(engine: QueryEngine, question: Question) -> Side:
    try:
        result = engine.run(question.sql)
        return Side(result.columns, result.rows())
    except QuestlogError as error:
        return Side(error=str(error))


def differences(ours: Side, theirs: Side) -> tuple[list[Row], list[Row]]:
    """Return the rows that only one side has; columns are matched by name, `PLACES` and row order are ignored."""
    names = sorted((set(ours.columns) & set(theirs.columns)) - PLACES)
    left, right = (sorted(_keyed(side, names), key=lambda keyed: keyed[0]) for side in (ours, theirs))
    only_left: list[Row] = []
    only_right: list[Row] = []
    i = j = 0
    while i < len(left) and j < len(right):
        (key, mine), (other, yours) = left[i], right[j]
        if all(map(_same, _picked(ours, mine, names), _picked(theirs, yours, names))):
            i, j = i + 1, j + 1
        elif key < other:
            only_left.append(mine)
            i += 1
        else:
            only_right.append(yours)
            j += 1
    return only_left + [row for _, row in left[i:]], only_right + [row for _, row in right[j:]]


def _keyed(side: Side, names: Sequence[str]) -> Iterator[tuple[tuple[list[str], list[str]], Row]]:
    """Yield each row with its sort key: rounded numbers first, so that nearly equal rows are next to each other."""
    for row in side.rows:
        values = _picked(side, row, names)
        yield (list(map(_key, values)), list(map(repr, values))), row


def _picked(side: Side, row: Row, names: Sequence[str]) -> list[Any]:
    index = {name: number for number, name in enumerate(side.columns)}
    return [row[index[name]] for name in names]


def _key(value: Any) -> str:
    """Return a sort key that is the same for both engines, even if they return different Python types."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float | Decimal):
        number = float(value)
        return f"{number:.9e}" if math.isfinite(number) else str(number)
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{k!r}: {_key(v)}" for k, v in value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_key, value)) + "]"
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are equal, floats except for their last digits."""
    if isinstance(one, float) or isinstance(other, float):
        if one is None or other is None:
            return one is other
        a, b = float(one), float(other)
        return math.isclose(a, b, rel_tol=_DIGITS, abs_tol=1e-300) or (math.isnan(a) and math.isnan(b))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bytes | bytearray) and isinstance(other, bytes | bytearray):
        return bytes(one) == bytes(other)
    return bool(one == other)
