"""The same questions on both sides: the project's saved queries, or what can be asked of any project."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from questlog.errors import QuestlogError
from questlog.query.result import Result
from questlog.query.text import quote_name, split_statements

FOLDER = "queries"
PLACES = frozenset(("landed_time", "log_partition", "log_offset"))
"""When and where a row was landed: each side has its own for what both have landed since the copy."""
WHOLE_ROWS = 10_000
"""Of a table with more rows the first by id are compared value by value, not all of them."""
_DIGITS = 1e-9
"""Sums of floats depend on the order of their terms; nothing else may differ."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One statement, and what it is called."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Side:
    """What one side answered, or why it did not. `only` are rows that the other side has not."""

    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    only: Sequence[Row] = field(default_factory=tuple)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Both sides of one question."""

    question: Question
    laptop: Side
    cluster: Side
    equal: bool


class Engine(Protocol):
    """What both query engines do."""

    def run(self, text: str) -> Result:
        """Run one reading statement."""


def questions(root: Path, tables: Sequence[str], rows: dict[str, int]) -> list[Question]:
    """Return what to ask: every table's counts, then the saved queries, or the usual statements without any."""
    found = [_counts(name) for name in tables]
    saved = sorted((root / FOLDER).glob("*.sql"))
    for path in saved:
        statements = split_statements(path.read_text("utf-8"))
        for number, statement in enumerate(statements, 1):
            name = path.stem if len(statements) == 1 else f"{path.stem} {number}"
            found.append(Question(name, statement))
    return found if saved else found + list(_usual(tables, rows))


def _counts(table: str) -> Question:
    what = "count(*) as events, count(distinct event_id) as ids, min(received_time) as first_received"
    return Question(f"count {table}", f"select {what}, max(received_time) as last_received from {quote_name(table)}")


def _usual(tables: Sequence[str], rows: dict[str, int]) -> Iterator[Question]:
    """Yield the statements that an analyst of the game of swords types, of whatever tables there are."""
    yield Question("show tables", "show tables")
    for name in tables:
        quoted = quote_name(name)
        yield Question(f"describe {name}", f"describe {quoted}")
        most = "" if rows.get(name, 0) <= WHOLE_ROWS else f" order by event_id limit {WHOLE_ROWS}"
        yield Question(f"rows of {name}", f"select * from {quoted}{most}")
    if "join_guild" in tables:
        yield Question("guilds by host", "select host as host, count(*) as count from join_guild group by host")
        yield Question("guilds", "select count(*) as count from join_guild")


def compare(asked: Sequence[Question], laptop: Engine, cluster: Engine) -> Iterator[Answer]:
    """Ask both sides each question in turn."""
    for question in asked:
        ours, theirs = _ask(laptop, question), _ask(cluster, question)
        if ours.error or theirs.error:
            yield Answer(question, ours, theirs, False)
            continue
        only_ours, only_theirs = differences(ours, theirs)
        equal = not only_ours and not only_theirs and sorted(ours.columns) == sorted(theirs.columns)
        yield Answer(
            question, Side(ours.columns, ours.rows, only_ours), Side(theirs.columns, theirs.rows, only_theirs), equal
        )


def _ask(engine: Engine, question: Question) -> Side:
    try:
        result = engine.run(question.sql)
        return Side(result.columns, result.rows())
    except QuestlogError as error:
        return Side(error=str(error))


def differences(ours: Side, theirs: Side) -> tuple[list[Row], list[Row]]:
    """Return the rows that only one side has. Rows have no order, columns are found by name, places are skipped."""
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
    """Yield each row with what sorts it: numbers rounded first, so that nearly equal ones come next to each other."""
    for row in side.rows:
        values = _picked(side, row, names)
        yield (list(map(_key, values)), list(map(repr, values))), row


def _picked(side: Side, row: Row, names: Sequence[str]) -> list[Any]:
    places = {name: place for place, name in enumerate(side.columns)}
    return [row[places[name]] for name in names]


def _key(value: Any) -> str:
    """Return what sorts values of both engines alike, whatever Python type each gives them."""
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
    """Return whether two values are equal, floats but for their last digits."""
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
