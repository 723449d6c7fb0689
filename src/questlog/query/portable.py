"""Whether a statement means the same to DuckDB, Presto, Trino and Spark: said before it runs, with its place.

What is not known to be the same is reported. Every function and form allowed here is in `tests/cluster/corpus.sql`
or was run on all three; the check errs on the side of speaking up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from questlog.errors import NotInstalled

if TYPE_CHECKING:
    from sqlglot.tokens import Token

_NAMES = (
    "abs avg bool_and bool_or cast ceil coalesce concat count date_trunc day dense_rank exp extract first_value floor"
    " greatest hour lag last_value lead least length ln lower ltrim max max_by min min_by minute mod month nullif"
    " ntile percent_rank power quarter rank replace reverse round row_number rtrim second sqrt stddev stddev_pop"
    " stddev_samp substr substring sum trim upper var_pop var_samp variance year"
)
FUNCTIONS = frozenset(_NAMES.split())
_SYNTAX = (
    "all and any as between by cube distinct else except exists filter from group having in intersect intersects join"
    " like not nulls on or order over partition rollup select sets some then union using values when where with"
    " decimal varchar char grouping end rows range case recursive"
)
_WORDS_BEFORE_BRACKET = frozenset(_SYNTAX.split())
_INSTEAD = {
    "arg_max": "max_by", "arg_min": "min_by", "len": "length", "strlen": "length", "mean": "avg", "ifnull": "coalesce",
    "nvl": "coalesce", "isnull": "is null", "count_if": "count(*) filter (where …)", "if": "case when … then … end",
    "now": "current_timestamp", "list": "", "date_diff": "a subtraction on one engine only", "any_value": "min or max",
}  # fmt: skip
_TYPES = frozenset(("boolean", "integer", "bigint", "double", "date", "timestamp", "decimal", "varchar"))
_WORDS = {
    "qualify": "put row_number() into a subquery and filter outside",
    "pivot": "use count(*) filter (where …)",
    "unpivot": "use union all",
    "summarize": "ask for each aggregate",
    "ilike": "use lower(x) like …",
    "offset": "filter by a row_number()",
    "unnest": "lists open differently on each engine",
    "lateral": "lists open differently on each engine",
    "asof": "use max_by",
    "tablesample": "use where",
}
_SIGNS = {
    "::": "use cast(x as type)",
    "[": "the first element is 1 on DuckDB and Presto and 0 on Spark",
    "{": "structs are written differently on each engine",
    "->": "functions of functions are written differently",
    "//": "use floor(cast(x as double) / y)",
    "%": "use mod(x, y)",
    "=>": "named arguments are DuckDB's",
    "`": "use a name without quotes",
}


@dataclass(frozen=True, slots=True)
class PortabilityIssue:
    """A place in the text, 1-based, what stands there, and what works everywhere."""

    line: int
    column: int
    what: str
    instead: str


def check_portable(text: str) -> list[PortabilityIssue]:
    """Return what in *text* is not known to mean the same on every engine; empty means portable."""
    try:
        from sqlglot.dialects.duckdb import DuckDB
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        raise NotInstalled("checking needs sqlglot", hint="pip install 'questlog[cluster]'") from error
    try:
        tokens = DuckDB().tokenize(text)
    except SqlglotError as error:
        return [PortabilityIssue(1, 1, f"this is no SQL: {error}", "")]
    return [trouble for statement in _statements(tokens) for trouble in _check(statement, text)]


def _statements(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each statement; show and describe are questlog's own and left out."""
    current: list[Token] = []
    for token in [*tokens, None]:
        if token is not None and token.text != ";":
            current.append(token)
            continue
        if current and current[0].text.lower() not in ("show", "describe", "desc"):
            yield current
        current = []


def _check(tokens: list[Token], text: str) -> Iterator[PortabilityIssue]:
    first = tokens[0]
    if first.text.lower() not in ("select", "with", "values", "(", "explain"):
        yield _at(first, text, f"a statement that begins with {first.text}", "begin with select or with")
    for place, token in enumerate(tokens):
        before = tokens[place - 1].text.lower() if place else ""
        after = tokens[place + 1] if place + 1 < len(tokens) else None
        yield from _check_token(token, before, after, tokens, place, text)


def _check_token(
    token: Token, before: str, after: Token | None, tokens: Sequence[Token], place: int, text: str
) -> Iterator[PortabilityIssue]:
    word, kind = token.text.lower(), token.token_type.name
    if kind == "HEREDOC_STRING":
        yield _at(token, text, "a text between dollars", "use single quotes")
        return
    if kind == "STRING":
        if "\\" in token.text:
            yield _at(token, text, "a backslash in a text", "Spark reads it as an escape; the others do not")
        return
    if kind == "IDENTIFIER":
        yield _at(token, text, f'the quoted name "{token.text}"', "Spark reads it as a text; use a name without quotes")
        return
    if word in _SIGNS and not token.text.isalpha():
        yield _at(token, text, token.text, _SIGNS[word])
    elif word in _WORDS and before != ".":
        yield _at(token, text, word, _WORDS[word])
    elif word == "all" and before.endswith(" by"):
        yield _at(token, text, "by all", "name the columns, or count them: group by 1, 2")
    elif word == "/" and not _has_double(tokens, place):
        yield _at(token, text, "a division", "Presto cuts whole numbers: cast(x as double) / y")
    elif word == "interval" and after is not None:
        if after.token_type.name != "STRING" or not after.text.strip().lstrip("-").isdecimal():
            yield _at(token, text, "an interval without a quoted number", "write interval '30' minute")
    elif word == "as" and after is not None and _is_cast(tokens, place):
        yield from _check_cast(after, tokens, place, text)
    elif after is not None and after.text == "(" and (token.text.isidentifier() and before != "as"):
        is_name = before in ("with", ",", "recursive") and _is_table_expression(tokens, place)
        if word not in FUNCTIONS | _WORDS_BEFORE_BRACKET and not is_name:
            yield _at(token, text, f"the function {word}", _INSTEAD.get(word, "it is not the same on every engine"))


def _check_cast(type_: Token, tokens: Sequence[Token], place: int, text: str) -> Iterator[PortabilityIssue]:
    word = type_.text.lower()
    if word not in _TYPES:
        yield _at(type_, text, f"the type {word}", f"cast to one of {', '.join(sorted(_TYPES))}")
    elif word == "varchar" and (place + 2 >= len(tokens) or tokens[place + 2].text != "("):
        yield _at(type_, text, "varchar without a length", "Spark wants one: varchar(100)")


def _is_cast(tokens: Sequence[Token], place: int) -> bool:
    """Return whether the `as` at *place* stands directly in the brackets of a cast."""
    depth = 0
    for index in range(place - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(tokens[index].text, 0)
        if depth < 0:
            return tokens[index - 1].text.lower() in ("cast", "try_cast")
    return False


def _is_table_expression(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a name and its bracketed columns are followed by `as (`."""
    for index in range(place, min(place + 40, len(tokens) - 1)):
        if tokens[index].text == ")":
            return bool(tokens[index + 1].text.lower() == "as")
    return False


def _has_double(tokens: Sequence[Token], place: int) -> bool:
    """Return whether a cast to double stands near the division; a far one may be another's, and is not counted."""
    return any(token.text.lower() == "double" for token in tokens[max(0, place - 12) : place + 8])


def _at(token: Token, text: str, what: str, instead: str) -> PortabilityIssue:
    line = text.count("\n", 0, token.start) + 1
    column = token.start - (text.rfind("\n", 0, token.start) + 1) + 1
    return PortabilityIssue(line, column, what, instead)
