"""Which of the plan's routes a request's path is, for apps whose own router questlog cannot ask."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_VARIABLE = re.compile(
    r"<(?:(?P<kind>\w+)(?:\((?P<args>[^>]*)\))?:)?(?P<name>\w+)>"  # Flask and Django
    r"|\{(?P<name2>\w+)(?::(?P<kind2>\w+))?\}"  # Starlette, FastAPI
)
_TEXT = r"[^/]+"
_KINDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "int": (r"\d+", int),
    "float": (r"\d+(?:\.\d+)?", float),
    "path": (r".+", str),
    "uuid": (r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}", lambda text: str(uuid.UUID(text))),
    "slug": (r"[-\w]+", str),
}
"""Kinds whose value is no plain text. A pattern may be wider than the app's: only what the app answers counts."""
_PLACE = {"path": 3, "string": 2, "str": 2, "slug": 2, "any": 1}


class Matched(NamedTuple):
    """The event that a route records, and what the path said."""

    event: str
    values: dict[str, Any]


class _Rule(NamedTuple):
    order: tuple[tuple[int, ...], ...]
    pattern: re.Pattern[str]
    event: str
    convert: Mapping[str, Callable[[str], Any]]


class Routes:
    """The plan's `[routes]` by method and path. Where several fit, fixed text counts before a variable."""

    def __init__(self, routes: Mapping[str, str]) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        for route, event in routes.items():
            method, _, path = route.partition(" ")
            self._rules.setdefault(method, []).append(_rule(path, event))
        for rules in self._rules.values():
            rules.sort(key=lambda rule: rule.order)

    def find(self, method: str, path: str) -> Matched | None:
        """Return what such a request records, once it succeeds."""
        for rule in self._rules.get(method, ()):
            found = rule.pattern.fullmatch(path)
            if found is not None:
                return Matched(rule.event, _values(found.groupdict(), rule.convert))
        return None


def _rule(path: str, event: str) -> _Rule:
    pattern, end = "", 0
    convert: dict[str, Callable[[str], Any]] = {}
    for variable in _VARIABLE.finditer(path):
        name = variable["name"] or variable["name2"]
        kind = variable["kind"] or variable["kind2"] or "string"
        text, convert[name] = _KINDS.get(kind, (_TEXT, str))
        if kind == "any":
            text = "|".join(re.escape(choice.strip(" \"'")) for choice in (variable["args"] or "").split(","))
        pattern += re.escape(path[end : variable.start()]) + f"(?P<{name}>{text})"
        end = variable.end()
    return _Rule(_order(path), re.compile(pattern + re.escape(path[end:]), re.S), event, convert)


def _order(path: str) -> tuple[tuple[int, ...], ...]:
    """Return what sorts routes as routers do: part by part, the more exact one first."""
    found = []
    for part in path.split("/"):
        kinds = [v["kind"] or v["kind2"] or "string" for v in _VARIABLE.finditer(part)]
        fixed = len(_VARIABLE.sub("", part))
        found.append((max((_PLACE.get(kind, 1) for kind in kinds), default=0), -fixed))
    return tuple(found)


def _values(groups: Mapping[str, str], convert: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in groups.items():
        try:
            values[name] = convert[name](text)
        except ValueError:  # more digits than Python makes a number of
            values[name] = text
    return values
