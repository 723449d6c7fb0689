"""Reads `plan.toml` into a `Plan`, or reports every fault of the file at once."""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

from questlog.errors import PlanError
from questlog.plan import MODES, SCALARS, Envelope, Event, Field, Plan, Type

NAME = re.compile(r"^[a-z][a-z0-9_]{0,63}$")
RESERVED = (
    "event_id", "event_type", "event_time", "received_time", "player_id", "session_id", "sequence",
    "raw_event", "plan_version", "events", "quarantine",
)  # fmt: skip
_FIELD_KEYS = tuple(name for name in Field.__dataclass_fields__ if name != "name")
_EVENT_KEYS = ("table", "mode", "description", "owner", "match", "fields")
_TOP_KEYS = ("game", "headers", "envelope", "events", "routes")
_ROUTE = re.compile(r"^(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) /\S*$")


def load_plan(path: str | Path) -> Plan:
    """Return the plan in *path*; raise `PlanError` with every fault, each with file and line."""
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(str(path), [f"cannot be read: {error}"]) from error
    return parse_plan(text, str(path))


def parse_plan(text: str, path: str = "plan.toml") -> Plan:
    """Return the plan in *text*; *path* is only for messages."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(path, [f"not TOML: {error}"]) from error
    return _Reader(text, path).plan(document)


class _Reader:
    """Walks the document; a fault never stops the walk."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path
        self.lines = text.splitlines()
        self.faults: list[tuple[int, str]] = []

    def fault(self, where: tuple[str, ...], message: str) -> None:
        line = self._line(where)
        self.faults.append((line, f"line {line}: {'.'.join(where)}: {message}"))

    def _line(self, where: tuple[str, ...]) -> int:
        """Return the line of the deepest part of *where* that can be found, reading downwards."""
        line = 0
        for part in where:
            word = re.compile(rf"(?<![\w-])[\"']?{re.escape(part)}[\"']?(?![\w-])")
            for number in range(line, len(self.lines)):
                code = self.lines[number].split("#", 1)[0]
                if word.search(code):
                    line = number
                    break
        return line + 1

    def known(self, where: tuple[str, ...], table: dict[str, Any], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, 1)
                guess = f"; did you mean {near[0]!r}?" if near else ""
                self.fault((*where, key), f"unknown key{guess} Known: {', '.join(allowed)}")

    def table(self, where: tuple[str, ...], value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.fault(where, f"must be a table, not {value!r}")
        return {}

    def plan(self, document: dict[str, Any]) -> Plan:
        self.known((), document, _TOP_KEYS)
        game = self.table(("game",), document.get("game", {}))
        self.known(("game",), game, ("name", "description", "dedup_hours"))
        headers = self.table(("headers",), document.get("headers", {}))
        self.known(("headers",), headers, ("keep",))
        envelope = self.table(("envelope",), document.get("envelope", {}))
        self.known(("envelope",), envelope, tuple(Envelope.__dataclass_fields__))
        events = {
            name: self.event(name, self.table(("events", name), body))
            for name, body in self.table(("events",), document.get("events", {})).items()
        }
        routes = self.table(("routes",), document.get("routes", {}))
        for route, name in routes.items():
            if not _ROUTE.match(route):
                self.fault(("routes", route), 'must be "METHOD /path"')
            if name not in events:
                self.fault(("routes", route), f"event {name!r} is not declared{self._near(name, events)}")
        self._check_tables(events)
        if self.faults:
            raise PlanError(self.path, [message for _, message in sorted(self.faults)])
        keep = tuple(headers.get("keep", Plan.__dataclass_fields__["headers"].default))
        digest = hashlib.sha256(repr(_meaning(document)).encode()).hexdigest()[:12]
        return Plan(
            game=str(game.get("name", "game")),
            version=digest,
            headers=keep,
            envelope=Envelope(**envelope),
            events=events,
            routes=routes,
            dedup_hours=float(game.get("dedup_hours", 24.0)),
            text=self.text,
        )

    def _near(self, word: str, words: Any) -> str:
        near = difflib.get_close_matches(str(word), list(words), 1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def event(self, name: str, body: dict[str, Any]) -> Event:
        where = ("events", name)
        self.known(where, body, _EVENT_KEYS)
        if not NAME.match(name):
            self.fault(where, "a name is a-z, 0-9 and _, starts with a letter, 64 at most")
        table = body.get("table", name)
        if not isinstance(table, str) or not NAME.match(table) or table in ("events", "quarantine"):
            self.fault((*where, "table"), f"{table!r} cannot name a table")
        mode = body.get("mode", "quarantine")
        if mode not in MODES:
            self.fault((*where, "mode"), f"{mode!r} is no mode{self._near(mode, MODES)} Known: {', '.join(MODES)}")
        match = self.table((*where, "match"), body.get("match", {}))
        fields = self.table((*where, "fields"), body.get("fields", {}))
        return Event(
            name=name,
            table=str(table),
            mode=str(mode),
            description=str(body.get("description", "")),
            owner=str(body.get("owner", "")),
            match=tuple(match.items()),
            fields=tuple(self.field((*where, "fields", key), key, value) for key, value in fields.items()),
        )

    def field(self, where: tuple[str, ...], name: str, value: Any) -> Field:
        body = {"type": value} if isinstance(value, str) else self.table(where, value)
        self.known(where, body, _FIELD_KEYS)
        if not NAME.match(name):
            self.fault(where, "a name is a-z, 0-9 and _, starts with a letter, 64 at most")
        if name in RESERVED:
            self.fault(where, f"{name!r} is a column every event has; choose another name")
        type_ = self.type(where, body)
        options: dict[str, Any] = {k: v for k, v in body.items() if k in _FIELD_KEYS and k != "type"}
        for key in ("enum", "aliases"):
            if key in options:
                if not isinstance(options[key], list):
                    self.fault((*where, key), "must be a list")
                    del options[key]
                else:
                    options[key] = tuple(options[key])
        if "pattern" in options:
            try:
                re.compile(options["pattern"])
            except (re.error, TypeError) as error:
                self.fault((*where, "pattern"), f"not a regular expression: {error}")
        return Field(name=name, type=type_, **options)

    def type(self, where: tuple[str, ...], body: dict[str, Any]) -> Type:
        text = body.get("type", "enum" if "enum" in body else None)
        if text is None:
            self.fault(where, "has no type")
            return Type("string")
        try:
            type_ = parse_type(str(text))
        except ValueError as error:
            self.fault((*where, "type"), str(error))
            return Type("string")
        if type_.kind == "enum":
            if not body.get("enum"):
                self.fault(where, 'type "enum" needs enum = [values]')
            return Type("string")
        return type_

    def _check_tables(self, events: dict[str, Event]) -> None:
        """Events that share a table must agree on each shared column's type."""
        seen: dict[tuple[str, str], tuple[str, Type]] = {}
        for event in events.values():
            for field in event.fields:
                other = seen.setdefault((event.table, field.name), (event.name, field.type))
                if other[1] != field.type:
                    self.fault(
                        ("events", event.name, "fields", field.name),
                        f"is {field.type} here and {other[1]} in {other[0]}, both in table {event.table}",
                    )


def _meaning(value: Any) -> Any:
    """Order does not matter to a plan, except that of fields: it is the order of columns."""
    return value


def parse_type(text: str) -> Type:
    """Return the type *text* names; raise ValueError with the nearest valid word."""
    text = text.strip()
    decimal = re.fullmatch(r"decimal\(\s*(\d+)\s*,\s*(\d+)\s*\)", text)
    if decimal:
        precision, scale = int(decimal.group(1)), int(decimal.group(2))
        if not 1 <= precision <= 38 or scale > precision:
            raise ValueError(f"{text}: precision is 1 to 38, scale at most the precision")
        return Type("decimal", precision, scale)
    nested = re.fullmatch(r"(list|map|struct)\s*<(.*)>", text, re.S)
    if nested:
        return _parse_nested(nested.group(1), nested.group(2), text)
    if text in SCALARS:
        return Type(text)
    words = (*SCALARS, "decimal(p,s)", "list<T>", "map<string,T>", "struct<name:T,...>")
    near = difflib.get_close_matches(text, words, 1, 0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{text!r} is no type{guess} Known: {', '.join(words)}")


def _parse_nested(kind: str, inner: str, text: str) -> Type:
    parts = _split(inner)
    if kind == "list":
        if len(parts) != 1:
            raise ValueError(f"{text}: a list has one type")
        return Type("list", item=parse_type(inner))
    if kind == "map":
        if len(parts) != 2 or parts[0].strip() != "string":
            raise ValueError(f"{text}: write map<string,T>; keys are strings in JSON")
        return Type("map", item=parse_type(parts[1]))
    fields = []
    for part in parts:
        name, colon, type_ = part.partition(":")
        if not colon or not NAME.match(name.strip()):
            raise ValueError(f"{text}: write struct<name:T,...>")
        fields.append((name.strip(), parse_type(type_)))
    return Type("struct", fields=tuple(fields))


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "<(") - (letter in ">)")
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]
