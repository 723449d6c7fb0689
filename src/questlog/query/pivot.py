"""PIVOT without IN: look its values up first, so that the statement to run has a parse tree that can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from questlog.errors import QueryError
from questlog.query.text import SqlToken, quote_text, tokens

MOST_VALUES = 1000
_CLAUSES = ("using", "group", "order", "limit")


@dataclass(frozen=True, slots=True)
class Pivot:
    """A PIVOT at the top of a statement, in pieces of its text: `before` ON, its `entries`, and what comes `after`."""

    with_clause: str
    source: str
    before: str
    entries: tuple[tuple[str, bool], ...]
    """Each expression, and whether it already lists its values."""
    after: str

    def lookups(self) -> list[str]:
        """Return a SELECT of the distinct values for each entry that lists none."""
        return [
            f"{self.with_clause} select distinct cast({text} as varchar) as pivot_value from {self.source}"
            f" where pivot_value is not null order by pivot_value limit {MOST_VALUES + 1}"
            for text, has_values in self.entries
            if not has_values
        ]

    def with_values(self, values: Sequence[Sequence[str]]) -> str:
        """Return the statement with IN and the values of each lookup."""
        looked_up = iter(values)
        entries = [text if has_values else _entry(text, next(looked_up)) for text, has_values in self.entries]
        return f"{self.before} on {', '.join(entries)} {self.after}"


def _entry(text: str, values: Sequence[str]) -> str:
    if not values:
        raise QueryError(f"PIVOT finds no values of {text}", hint=f"PIVOT … ON {text} IN ('first', 'second')")
    if len(values) > MOST_VALUES:
        raise QueryError(
            f"PIVOT finds more than {MOST_VALUES:,} values of {text}", hint=f"PIVOT … ON {text} IN ('first', 'second')"
        )
    return f"cast({text} as varchar) in ({', '.join(map(quote_text, values))})"


def read_pivot(statement: str) -> Pivot | None:
    """Return the PIVOT that *statement* is, perhaps after a WITH clause, if it leaves values to be looked up.

    The pieces are cut by tokens and may be wrong for unusual statements. That is harmless: the lookups and the result
    are checked like any other statement.
    """
    pieces = [SqlToken("space", " ") if token.kind == "comment" else token for token in tokens(statement)]
    start = _find(pieces, 0, "pivot", "pivot_wider")
    if start is None or not _may_precede(pieces[:start]):
        return None
    on = _find(pieces, start, "on")
    if on is None:
        return None
    end = _find(pieces, on, *_CLAUSES) or len(pieces)
    entries = tuple((_text(part), _find(part, 0, "in") is not None) for part in _split(pieces[on + 1 : end]))
    if all(has_values for _, has_values in entries):
        return None
    return Pivot(_text(pieces[:start]), _text(pieces[start + 1 : on]), _text(pieces[:on]), entries, _text(pieces[end:]))


def _may_precede(pieces: Sequence[SqlToken]) -> bool:
    """Return whether *pieces* are nothing, or a WITH clause alone."""
    words = [token for token in pieces if token.kind != "space"]
    is_query = _find(pieces, 0, "select", "from", "values", "table") is not None
    return not words or (words[0].is_word("with") and words[-1].text == ")" and not is_query)


def _find(pieces: Sequence[SqlToken], start: int, *words: str) -> int | None:
    """Return the index of the first of *words* outside parentheses, from *start* on."""
    depth = 0
    for index in range(start, len(pieces)):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(pieces[index].text, 0)
        if depth == 0 and pieces[index].is_word(*words):
            return index
    return None


def _split(pieces: Sequence[SqlToken]) -> list[list[SqlToken]]:
    """Return the parts of *pieces* between commas that are outside parentheses."""
    parts: list[list[SqlToken]] = [[]]
    depth = 0
    for token in pieces:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _text(pieces: Sequence[SqlToken]) -> str:
    return "".join(token.text for token in pieces).strip()
