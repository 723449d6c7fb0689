"""SQL as text: where one statement ends and the next begins, and how names and values are quoted."""

from __future__ import annotations

import re
from collections.abc import Iterator

from questlog.errors import QueryError

_PIECE = re.compile(
    r"""
    (?P<quoted>'(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))
  | (?P<comment>--[^\n]* | /\*.*?(?:\*/|\Z))
  | (?P<end>;)
  | (?P<rest>[^'"$;/-]+ | .)
    """,
    re.S | re.X,
)


def pieces(text: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) of what *text* is made of; kinds are quoted, comment, end and rest."""
    for match in _PIECE.finditer(text):
        yield match.lastgroup if match.lastgroup != "tag" else "quoted", match.group()  # type: ignore[misc]


def split_statements(text: str) -> list[str]:
    """Return the statements of *text* without their semicolons; pieces of only blanks and comments are left out."""
    found, current, says_something = [], "", False
    for kind, piece in pieces(text):
        if kind == "end":
            if says_something:
                found.append(current.strip())
            current, says_something = "", False
            continue
        current += piece
        says_something = says_something or kind == "quoted" or (kind == "rest" and bool(piece.strip()))
    return [*found, current.strip()] if says_something else found


def only_statement(text: str) -> str:
    """Return the one statement of *text*; raises `QueryError` if it has none or several."""
    statements = split_statements(text)
    if len(statements) != 1:
        raise QueryError(f"{len(statements) or 'no'} statements; run one at a time")
    return statements[0]


def is_complete(text: str) -> bool:
    """Return whether *text* ends after a semicolon that is neither quoted nor in a comment."""
    last = "rest"
    for kind, piece in pieces(text):
        if kind != "comment" and piece.strip():
            last = kind
    return last == "end"


def without_comments(text: str) -> str:
    """Return *text* with each comment as one blank."""
    return "".join(" " if kind == "comment" else piece for kind, piece in pieces(text)).strip()


def quote_name(name: str) -> str:
    """Return *name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return *text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
