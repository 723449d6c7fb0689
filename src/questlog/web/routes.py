"""Matches a request's path to the plan's `[routes]`, for apps whose own router questlog cannot ask."""

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
"""Converters other than plain text: pattern and conversion. A pattern may be wider than the app's own, since only
requests that the app answers with success are recorded."""
_RANK = {"path": 3, "string": 2, "str": 2, "slug": 2, "any": 1}


class RouteMatch(NamedTuple):
    """The event that a route records, and the values of the path's variables."""

    event: str
    values: dict[str, Any]


class _Rule(NamedTuple):
    order: tuple[tuple[int, ...], ...]
    pattern: re.Pattern[str]
    event: str
    convert: Mapping[str, Callable[[str], Any]]


class Routes:
    """The plan's `[routes]` by method and path. Where several match, fixed text wins over a variable."""

    def __init__(self, routes: Mapping[str, str]) -> None:
        self._rules: dict[str, list[_Rule]] = {}
        for route, event in routes.items():
            method, _, path = route.partition(" ")
            self._rules.setdefault(method, []).append(_rule(path, event))
        for rules in self._rules.values():
            rules.sort(key=lambda rule: rule.order)

    def match(self, method: str, path: str) -> RouteMatch | None:
        """Return what a request records if it succeeds, or None."""
        for rule in self._rules.get(method, ()):
            match = rule.pattern.fullmatch(path)
            if match is not None:
                return RouteMatch(rule.event, _values(match.groupdict(), rule.convert))
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
    """Return a sort key that orders routes as routers do: segment by segment, the more specific one first."""
    order = []
    for segment in path.split("/"):
        kinds = [v["kind"] or v["kind2"] or "string" for v in _VARIABLE.finditer(segment)]
        fixed = len(_VARIABLE.sub("", segment))
        order.append((max((_RANK.get(kind, 1) for kind in kinds), default=0), -fixed))
    return tuple(order)


def _values(groups: Mapping[str, str], convert: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in groups.items():
        try:
            values[name] = convert[name](text)
        except ValueError:  # more digits than Python converts to an integer
            values[name] = text
    return values
