"""Check whether a statement means the same to DuckDB, Presto, Trino and Spark, without running it.

The check reports every construct that is not known to be portable. Every function and form that it allows is in
`tests/cluster/corpus.sql` or was run on all engines; when in doubt, it reports.
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
    "qualify": "put row_number() in a subquery and filter outside",
    "pivot": "use count(*) filter (where …)",
    "unpivot": "use union all",
    "summarize": "select each aggregate",
    "ilike": "use lower(x) like …",
    "offset": "filter by a row_number()",
    "unnest": "lists are unnested differently on each engine",
    "lateral": "lists are unnested differently on each engine",
    "asof": "use max_by",
    "tablesample": "use where",
}
_SIGNS = {
    "::": "use cast(x as type)",
    "[": "the first element is 1 on DuckDB and Presto and 0 on Spark",
    "{": "structs are written differently on each engine",
    "->": "lambdas are written differently on each engine",
    "//": "use floor(cast(x as double) / y)",
    "%": "use mod(x, y)",
    "=>": "only DuckDB has named arguments",
    "`": "use a name without quotes",
}


@dataclass(frozen=True, slots=True)
class PortabilityIssue:
    """A construct that is not portable, its position (1-based), and what to write instead."""

    line: int
    column: int
    what: str
    instead: str


def check_portable(text: str) -> list[PortabilityIssue]:
    """Return the constructs in *text* that are not known to mean the same on every engine."""
    try:
        from sqlglot.dialects.duckdb import DuckDB
        from sqlglot.errors import SqlglotError
    except ImportError as error:
        raise NotInstalled("checking needs sqlglot", hint="pip install 'questlog[cluster]'") from error
    try:
        tokens = DuckDB().tokenize(text)
    except SqlglotError as error:
        return [PortabilityIssue(1, 1, f"not valid SQL: {error}", "")]
    return [issue for statement in _statements(tokens) for issue in _check(statement, text)]


def _statements(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Yield the tokens of each statement except SHOW and DESCRIBE, which questlog answers itself."""
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
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text.lower() if index else ""
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        yield from _check_token(token, before, after, tokens, index, text)


def _check_token(
    token: Token, before: str, after: Token | None, tokens: Sequence[Token], index: int, text: str
) -> Iterator[PortabilityIssue]:
    word, kind = token.text.lower(), token.token_type.name
    if kind == "HEREDOC_STRING":
        yield _at(token, text, "a dollar-quoted string", "use single quotes")
        return
    if kind == "STRING":
        if "\\" in token.text:
            yield _at(token, text, "a backslash in a string", "Spark reads it as an escape; the others do not")
        return
    if kind == "IDENTIFIER":
        yield _at(
            token, text, f'the quoted name "{token.text}"', "Spark reads it as a string; use a name without quotes"
        )
        return
    if word in _SIGNS and not token.text.isalpha():
        yield _at(token, text, token.text, _SIGNS[word])
    elif word in _WORDS and before != ".":
        yield _at(token, text, word, _WORDS[word])
    elif word == "all" and before.endswith(" by"):
        yield _at(token, text, "by all", "name the columns, or use their numbers: group by 1, 2")
    elif word == "/" and not _has_double(tokens, index):
        yield _at(token, text, "a division", "Presto truncates integers: cast(x as double) / y")
    elif word == "interval" and after is not None:
        if after.token_type.name != "STRING" or not after.text.strip().lstrip("-").isdecimal():
            yield _at(token, text, "an interval without a quoted number", "write interval '30' minute")
    elif word == "as" and after is not None and _is_cast(tokens, index):
        yield from _check_cast(after, tokens, index, text)
    elif after is not None and after.text == "(" and (token.text.isidentifier() and before != "as"):
        is_name = before in ("with", ",", "recursive") and _is_table_expression(tokens, index)
        if word not in FUNCTIONS | _WORDS_BEFORE_BRACKET and not is_name:
            yield _at(token, text, f"the function {word}", _INSTEAD.get(word, "it is not the same on every engine"))


def _check_cast(type_: Token, tokens: Sequence[Token], index: int, text: str) -> Iterator[PortabilityIssue]:
    word = type_.text.lower()
    if word not in _TYPES:
        yield _at(type_, text, f"the type {word}", f"cast to one of {', '.join(sorted(_TYPES))}")
    elif word == "varchar" and (index + 2 >= len(tokens) or tokens[index + 2].text != "("):
        yield _at(type_, text, "varchar without a length", "Spark requires one: varchar(100)")


def _is_cast(tokens: Sequence[Token], index: int) -> bool:
    """Return whether the `as` at *index* is directly inside the parentheses of a cast."""
    depth = 0
    for at in range(index - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(tokens[at].text, 0)
        if depth < 0:
            return tokens[at - 1].text.lower() in ("cast", "try_cast")
    return False


def _is_table_expression(tokens: Sequence[Token], index: int) -> bool:
    """Return whether a name and its columns in parentheses are followed by `as`."""
    for at in range(index, min(index + 40, len(tokens) - 1)):
        if tokens[at].text == ")":
            return bool(tokens[at + 1].text.lower() == "as")
    return False


def _has_double(tokens: Sequence[Token], index: int) -> bool:
    """Return whether a cast to double is near the division; one further away may belong to another operator."""
    return any(token.text.lower() == "double" for token in tokens[max(0, index - 12) : index + 8])


def _at(token: Token, text: str, what: str, instead: str) -> PortabilityIssue:
    line = text.count("\n", 0, token.start) + 1
    column = token.start - (text.rfind("\n", 0, token.start) + 1) + 1
    return PortabilityIssue(line, column, what, instead)
