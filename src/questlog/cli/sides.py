"""Prints one query's results from both sides of a promotion next to each other, and the rows that differ."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from questlog.cli.rows import display_width, table_text
from questlog.printable import clean

if TYPE_CHECKING:
    from questlog.promote.compare import Comparison, Side

SHOWN_ROWS = 5
MOST_COLUMNS = 4
"""The widest rows that are shown; of wider ones only the number is, because two do not fit side by side."""
_LONGEST = 28


def side_by_side(answer: Comparison, width: int | None) -> str:
    """Return an answer for people: its name, the verdict, and both results."""
    mark = "equal" if answer.equal else "DIFFERENT"
    lines = [f"{mark}: {answer.question.name}"]
    texts = [_side_text(side, answer.equal) for side in (answer.laptop, answer.cluster)]
    left, right = (text.splitlines() for text in texts)
    room = max([display_width(line) for line in left] + [len("laptop")]) + 4
    if width is not None and room + max(map(display_width, right), default=0) + 2 > width:
        lines += ["  laptop", *(f"    {line}" for line in left), "  cluster", *(f"    {line}" for line in right)]
    else:
        height = max(len(left), len(right))
        pairs = zip(["laptop", *_filled(left, height)], ["cluster", *_filled(right, height)], strict=True)
        lines += [f"  {one}{' ' * (room - display_width(one))}{other}".rstrip() for one, other in pairs]
    return "\n".join(lines) + "\n"


def _filled(lines: Sequence[str], height: int) -> list[str]:
    return [*lines, *[""] * (height - len(lines))]


def _side_text(side: Side, equal: bool) -> str:
    """Return one side's rows or, if the sides differ, the rows that only this side has."""
    if side.error:
        return f"error: {clean(side.error.splitlines()[0])}"
    rows, what = (side.rows, "rows") if equal else (side.only, "rows that only this side has")
    count = f"({len(rows):,} {what})" if equal else f"({len(rows):,} {what}, of {len(side.rows):,})"
    if not rows or (equal and len(side.columns) > MOST_COLUMNS):
        return count
    columns = range(min(len(side.columns), MOST_COLUMNS))
    shown = [[_text(row[column]) for column in columns] for row in rows[:SHOWN_ROWS]]
    right = [all(isinstance(row[column], int | float) for row in rows[:SHOWN_ROWS]) for column in columns]
    text = table_text([side.columns[column] for column in columns], shown, right)
    return text + count if len(rows) > 1 or not equal else text


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value.isoformat(" ", "milliseconds") if isinstance(value, datetime) else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def as_dict(answer: Comparison) -> dict[str, Any]:
    """Return an answer for programs: the verdict, the number of rows, and the first ones."""
    return {
        "question": answer.question.name, "sql": answer.question.sql, "equal": answer.equal,
        "laptop": _side(answer.laptop), "cluster": _side(answer.cluster),
    }  # fmt: skip


def _side(side: Side) -> dict[str, Any]:
    if side.error:
        return {"error": side.error}
    return {
        "columns": list(side.columns), "count": len(side.rows), "rows": [_json(row) for row in side.rows[:SHOWN_ROWS]],
        "only": [_json(row) for row in side.only[:SHOWN_ROWS]],
    }  # fmt: skip


def _json(row: Sequence[Any]) -> list[Any]:
    return [value if value is None or isinstance(value, bool | int | str) else str(value) for value in row]
