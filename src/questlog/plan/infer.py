"""Infers the narrowest field type that holds all the values that were sent."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

from questlog.plan import Type
from questlog.plan.check import misfit
from questlog.plan.parse import DEEPEST, NAME

LARGEST_INT = 1_000_000
"""Larger whole numbers become long: what has grown this far may grow further."""
MOST_MEMBERS = 30
MOST_EXAMPLES = 5
LONGEST_EXAMPLE = 20
_DATE, _TIMESTAMP, _LONG, _HUGE = Type("date"), Type("timestamp"), Type("long"), Type("decimal", 38, 0)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}")


class ObservedValues:
    """Statistics of all values at one place of an event. Apart from a few examples, values are not kept."""

    __slots__ = ("dates", "examples", "has_infinity", "inner", "kinds", "largest", "members", "smallest", "times")

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.smallest = self.largest = 0
        self.has_infinity = False
        self.dates = self.times = True
        self.examples: dict[str, None] = {}
        self.inner: ObservedValues | None = None
        self.members: dict[str, ObservedValues] = {}

    @property
    def count(self) -> int:
        """The number of values that are not null."""
        return self.kinds.total() - self.kinds["null"]

    def add(self, value: Any) -> None:
        """Add one decoded JSON value."""
        kind = _kind(value)
        self.kinds[kind] += 1
        if kind == "int":
            self.smallest, self.largest = min(self.smallest, value), max(self.largest, value)
        elif kind == "float":
            self.has_infinity = self.has_infinity or not math.isfinite(value)
        elif kind == "text":
            self._add_text(value)
        elif kind in ("list", "object"):
            self._add_nested(value)

    def _add_text(self, text: str) -> None:
        self.dates = self.dates and not misfit(_DATE, text)
        self.times = self.times and bool(_TIME.match(text)) and not misfit(_TIMESTAMP, text)
        if len(self.examples) <= MOST_EXAMPLES:
            self.examples[text[: LONGEST_EXAMPLE + 1]] = None

    def _add_nested(self, value: Any) -> None:
        self.inner = self.inner or ObservedValues()
        for item in value if isinstance(value, list) else value.values():
            self.inner.add(item)
        if isinstance(value, dict) and len(self.members) <= 2 * MOST_MEMBERS:
            for key, item in value.items():
                self.members.setdefault(key, ObservedValues()).add(item)

    def type(self, depth: int = 0) -> Type | None:
        """Return the type that holds every value, or None if there is none or no value to infer it from."""
        kinds = {kind for kind in self.kinds if kind != "null"}
        if not kinds or depth > DEEPEST:
            return None
        if kinds <= {"int", "float"}:
            return self._number(kinds)
        if len(kinds) > 1:
            return None
        (kind,) = kinds
        if kind == "text":
            return _DATE if self.dates else _TIMESTAMP if self.times else Type("string")
        if kind == "list":
            item = self.inner.type(depth + 1) if self.inner is not None else None
            return None if item is None else Type("list", item=item)
        return self._object(depth) if kind == "object" else Type("bool")

    def _number(self, kinds: set[str]) -> Type | None:
        if "float" in kinds:
            fits = not self.has_infinity and not (
                misfit(Type("double"), self.smallest) or misfit(Type("double"), self.largest)
            )
            return Type("double") if fits else None
        if max(-self.smallest, self.largest) <= LARGEST_INT:
            return Type("int")
        types = (type_ for type_ in (_LONG, _HUGE) if not (misfit(type_, self.smallest) or misfit(type_, self.largest)))
        return next(types, None)

    def _object(self, depth: int) -> Type | None:
        """Return a struct if most objects share the keys, or a map if the keys are data."""
        assert self.inner is not None
        objects = self.kinds["object"]
        shared = all(2 * values.kinds.total() >= objects for values in self.members.values())
        if shared and 0 < len(self.members) <= MOST_MEMBERS and all(map(NAME.fullmatch, self.members)):
            members = []
            for name, values in self.members.items():
                type_ = values.type(depth + 1) if values.count else Type("string")
                if type_ is None:
                    return None
                members.append((name, type_))
            return Type("struct", fields=tuple(members))
        value = self.inner.type(depth + 1)
        return None if value is None else Type("map", item=value)

    def why_none(self) -> str:
        """Return why `type` is None, in words."""
        names = {"text": "text", "int": "whole numbers", "float": "numbers", "bool": "true or false",
                 "list": "lists", "object": "objects"}  # fmt: skip
        kinds = [f"{names[kind]} ({count:,})" for kind, count in self.kinds.most_common() if kind != "null"]
        if not kinds:
            return "always null"
        if len(kinds) > 1 and {kind for kind in self.kinds if kind != "null"} != {"int", "float"}:
            return f"no type holds {' and '.join(kinds)}"
        if "list" in self.kinds or "object" in self.kinds:
            return f"no type holds what is inside its {kinds[0]}"
        return "larger numbers than any type holds"

    def examples_text(self) -> str:
        """Return the texts that were sent, or "" if there were many or long ones."""
        short = [text for text in self.examples if text and len(text) <= LONGEST_EXAMPLE and text.isprintable()]
        few = len(self.examples) <= MOST_EXAMPLES and len(short) == len(self.examples)
        return ", ".join(short) if few and set(self.kinds) <= {"text", "null"} else ""


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "float" if isinstance(value, float) else "int"
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "object"
