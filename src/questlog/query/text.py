"""SQL as text: its tokens, where one statement ends and the next begins, and how names and values are quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from questlog.errors import QueryError

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<comment>--[^\r\n]* | /\*.*?(?:\*/|\Z))
  | (?P<string>'(?:[^']|'')*(?:'|\Z) | \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
  | (?P<name>"(?:[^"]|"")*(?:"|\Z))
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>\d[\w.]*)
  | (?P<end>;)
  | (?P<symbol>.)
    """,
    re.S | re.X,
)
_ESCAPE_STRING = re.compile(r"[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z|\\\Z)", re.S)
_BACKTICK_NAME = re.compile(r"`(?:[^`]|``)*(?:`|\Z)")
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class SqlToken(NamedTuple):
    """A piece of SQL text; kinds are space, comment, string, name (quoted), word, number, end and symbol."""

    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        """Return whether this is one of *words* (in lower case), not quoted."""
        return self.kind == "word" and self.text.lower() in words


def tokens(text: str, *, ansi: bool = False) -> Iterator[SqlToken]:
    """Yield the tokens of *text*, which together are all of it.

    They are DuckDB's: comments nest, E'' strings have escapes, backticks quote names. With *ansi* they are Presto's,
    which has none of the three: a token that ends elsewhere than the server thinks could hide a statement.
    """
    at = 0
    while at < len(text):
        kind, end = _token_at(text, at) if ansi else _duckdb_token_at(text, at)
        yield SqlToken(kind, text[at:end])
        at = end


def _token_at(text: str, at: int) -> tuple[str, int]:
    match = _TOKEN.match(text, at)
    assert match is not None
    return match.lastgroup or "string", match.end()


def _duckdb_token_at(text: str, at: int) -> tuple[str, int]:
    if text.startswith("/*", at):
        return "comment", _end_of_nested_comment(text, at)
    for kind, pattern in (("string", _ESCAPE_STRING), ("name", _BACKTICK_NAME)):
        match = pattern.match(text, at)
        if match:
            return kind, match.end()
    return _token_at(text, at)


def _end_of_nested_comment(text: str, at: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def split_statements(text: str) -> list[str]:
    """Return the statements of *text* without their semicolons; statements of only blanks and comments are left out."""
    statements, current, is_empty = [], "", True
    for token in tokens(text):
        if token.kind == "end":
            if not is_empty:
                statements.append(current.strip())
            current, is_empty = "", True
            continue
        current += token.text
        is_empty = is_empty and token.kind in ("space", "comment")
    return statements if is_empty else [*statements, current.strip()]


def only_statement(text: str) -> str:
    """Return the one statement of *text*; raises `QueryError` if it has none or several."""
    statements = split_statements(text)
    if len(statements) != 1:
        raise QueryError(f"{len(statements) or 'no'} statements; run one at a time")
    return statements[0]


def is_complete(text: str) -> bool:
    """Return whether *text* ends after a semicolon that is neither quoted nor in a comment."""
    last = ""
    for token in tokens(text):
        if token.kind not in ("space", "comment"):
            last = token.kind
    return last == "end"


def without_comments(text: str, *, ansi: bool = False) -> str:
    """Return *text* with each comment as one blank."""
    return "".join(" " if token.kind == "comment" else token.text for token in tokens(text, ansi=ansi)).strip()


def quote_name(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return *text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
