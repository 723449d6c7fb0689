"""Parses the text of a field's type, such as `map<string,decimal(9,2)>`, into a `Type`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from questlog.types import SCALARS, Type

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
NAME_RULE = "a name has a-z, 0-9 and _, starts with a letter and has at most 64 characters"
DEEPEST = 16
WORDS = (
    *(row.name for row in SCALARS.values() if row.is_declarable),
    "enum",
    "decimal(p,s)",
    "list<T>",
    "map<string,T>",
    "struct<name:T,...>",
)
"""Every type that a plan may name."""
_STRUCTURED = {
    "numeric": "decimal(p,s)", "decimal": "decimal(p,s)", "money": "decimal(p,s)", "array": "list<T>",
    "list": "list<T>", "set": "list<T>", "dict": "map<string,T>", "map": "map<string,T>",
    "object": "struct<name:T,...>", "struct": "struct<name:T,...>", "row": "struct<name:T,...>",
}  # fmt: skip
_SYNONYMS = _STRUCTURED | {synonym: row.name for row in SCALARS.values() for synonym in row.synonyms}
"""What other systems call a type -> its name in a plan."""


def nearest(word: object, words: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the one of *words* nearest to *word*, or "" if none is close."""
    import difflib

    spelling = {valid.lower(): valid for valid in words}
    lower = str(word).lower()
    near = difflib.get_close_matches(lower, list(spelling), 1)
    near = near or [valid for valid in spelling if len(lower) > 2 and lower in valid]
    return f"; did you mean {spelling[near[0]]!r}?" if near else ""


def parse_type(text: str) -> Type:
    """Return the type that *text* names; raise ValueError that suggests the nearest valid word."""
    return _parse(text, 0)


def _parse(text: str, depth: int) -> Type:
    text = text.strip()
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    decimal = re.fullmatch(r"decimal\s*\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)", text, re.A)
    if decimal:
        precision, scale = int(decimal.group(1)), int(decimal.group(2))
        if not 1 <= precision <= 38 or scale > precision:
            raise ValueError(f"{text}: precision is 1 to 38, scale at most the precision")
        return Type("decimal", precision, scale)
    nested = re.fullmatch(r"(list|map|struct)\s*<(.*)>", text, re.S)
    if nested:
        return _parse_nested(nested.group(1), nested.group(2), text, depth + 1)
    if text == "enum" and depth:
        raise ValueError("an enum cannot be inside another type; write string there")
    if text == "enum" or (text in SCALARS and SCALARS[text].is_declarable):
        return Type(text)
    raise ValueError(f"{_shortened(text)!r} is not a type{_guess(text)}")


def _guess(text: str) -> str:
    head = re.split(r"[<(\[]", text.lower(), maxsplit=1)[0].strip()
    meant = _SYNONYMS.get(text.lower()) or _SYNONYMS.get(head)
    if meant:
        return f"; did you mean {meant!r}?"
    return nearest(head, [re.split(r"[<(]", word)[0] for word in WORDS]) or f"; the types are {', '.join(WORDS)}"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _parse_nested(kind: str, inner: str, text: str, depth: int) -> Type:
    parts = _split(inner)
    if kind == "list":
        if len(parts) != 1 or not inner.strip():
            raise ValueError(f"{_shortened(text)}: write list<T>; a list has one type")
        return Type("list", item=_parse(inner, depth))
    if kind == "map":
        if len(parts) != 2 or parts[0].strip() != "string":
            raise ValueError(f"{_shortened(text)}: write map<string,T>; keys are strings in JSON")
        return Type("map", item=_parse(parts[1], depth))
    fields: dict[str, Type] = {}
    for part in parts:
        name, colon, type_ = (piece.strip() for piece in part.partition(":"))
        if not colon:
            raise ValueError(f"{_shortened(text)}: write struct<name:T,...>")
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid member name: {NAME_RULE}")
        if name in fields:
            raise ValueError(f"two members of the struct are named {name!r}")
        fields[name] = _parse(type_, depth)
    return Type("struct", fields=tuple(fields.items()))


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
