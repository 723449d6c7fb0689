"""Loads `plan.toml` into a `Plan`, or reports all faults of the file at once."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from questlog.errors import PlanError
from questlog.plan import MODES, Envelope, Event, Field, Plan, Type
from questlog.plan.check import option_faults, shared_faults, shown
from questlog.plan.columns import ENVELOPE, EVENTS_VIEW, LAST, QUARANTINE_TABLE, header_column
from questlog.plan.parse import NAME, NAME_RULE, nearest
from questlog.plan.parse import parse_type as parse_type
from questlog.plan.version import with_version

RESERVED = frozenset({*(column.name for column in (*ENVELOPE, *LAST)), "received_day"})
"""Columns of every table; its files are partitioned by `received_day`."""
VIEWS = (EVENTS_VIEW, QUARANTINE_TABLE)
SECRET_HEADERS = frozenset({"cookie", "set-cookie", "authorization", "proxy-authorization"})
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
LONGEST_WINDOW_HOURS = 8784.0
_FIELD_KEYS = tuple(name for name in Field.__dataclass_fields__ if name != "name")
_EVENT_KEYS = ("table", "mode", "description", "owner", "match", "fields")
_TOP_KEYS = ("game", "headers", "envelope", "events", "routes")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_BARE = re.compile(r"[A-Za-z0-9_-]+")

Where = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault of a plan file: its line, counted from 1, the path of the key, and a message."""

    line: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.path}: {self.message}" if self.path else f"line {self.line}: {self.message}"


def load_plan(path: str | Path) -> Plan:
    """Return the plan in *path*; raise `PlanError` with every fault, each with file and line."""
    return parse_plan(read_text(path), str(path))


def read_text(path: str | Path) -> str:
    """Return a plan file's text; raise `PlanError` if it cannot be read."""
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PlanError(str(path), [f"is not UTF-8 at byte {error.start}; save it as UTF-8"]) from error
    except OSError as error:
        raise PlanError(str(path), [f"cannot be read: {error.strerror or error}"]) from error


def parse_plan(text: str, path: str = "plan.toml") -> Plan:
    """Return the plan in *text*; raise `PlanError`. *path* is used in messages only."""
    plan, faults = check_plan(text)
    if plan is None:
        raise PlanError(path, [str(fault) for fault in faults])
    return plan


def check_plan(text: str) -> tuple[Plan | None, list[Fault]]:
    """Return the plan in *text*, or None and all its faults, sorted by line."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [_syntax_fault(text, error)]
    reader = _Reader()
    plan = reader.plan(document, text)
    if not reader.faults:
        return plan, []
    from questlog.plan.lines import key_lines  # only a faulty plan needs it

    lines = key_lines(text)
    return None, sorted(Fault(_line(lines, where), dotted(where), message) for where, message in reader.faults)


def _syntax_fault(text: str, error: Exception) -> Fault:
    """Return the first fault of a text that is not TOML; the rest cannot be parsed."""
    if isinstance(error, RecursionError):
        return Fault(1, "", "is nested too deeply")
    message, _, where = str(error).partition(" (at ")
    position = re.match(r"line (\d+), column (\d+)", where)
    line = int(position.group(1)) if position else text.rstrip().count("\n") + 1
    column = f", column {position.group(2)}" if position else ""
    return Fault(line, "", f"not TOML{column}: {message}")


def _line(lines: Mapping[Where, int], where: Where) -> int:
    """Return the line of the deepest part of *where* that the file has."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return lines[where[:length]]
    return 1


def dotted(where: Iterable[str | int]) -> str:
    """Return a path as TOML writes it: events.buy.fields.price, headers.keep[0], routes."GET /"."""
    text = ""
    for part in where:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else f'"{part}"')
    return text


class _Reader:
    """Walks the whole document and collects faults."""

    def __init__(self) -> None:
        self.faults: list[tuple[Where, str]] = []

    def fault(self, where: Where, message: str) -> None:
        self.faults.append((where, message))

    def refuse_unknown(self, where: Where, table: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
        for key in table:
            if key not in allowed:
                self.fault((*where, key), "unknown key" + (nearest(key, allowed) or f"; known: {', '.join(allowed)}"))

    def table(self, where: Where, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.fault(where, f"must be a table, as in [{dotted(where)}], not {shown(value)}")
        return {}

    def text(self, where: Where, value: Any) -> str:
        if isinstance(value, str):
            return value
        self.fault(where, f"must be text in quotes, not {shown(value)}")
        return ""

    def plan(self, document: dict[str, Any], text: str) -> Plan:
        """Return the plan of the whole document; it is valid only if there are no faults."""
        self.refuse_unknown((), document, _TOP_KEYS)
        parts = {key: self.table((key,), document.get(key, {})) for key in _TOP_KEYS}
        headers = self.headers(parts["headers"])
        envelope = self.envelope(parts["envelope"])
        kept = {header_column(header): header for header in headers}
        events = {
            name: self.event(name, self.table(("events", name), body), kept) for name, body in parts["events"].items()
        }
        self.refuse_case_duplicates(("events",), events)
        for where, message in shared_faults(events):
            self.fault(where, message)
        routes = {route: self.route(route, name, events, envelope) for route, name in parts["routes"].items()}
        name, description, dedup_hours = self.game(parts["game"])
        plan = Plan(name, "", headers, envelope, events, routes, dedup_hours, description, text)
        return plan if self.faults else with_version(plan)

    def game(self, body: dict[str, Any]) -> tuple[str, str, float]:
        self.refuse_unknown(("game",), body, ("name", "description", "dedup_hours"))
        hours = body.get("dedup_hours", 24.0)
        number = isinstance(hours, int | float) and not isinstance(hours, bool) and math.isfinite(hours)
        if not number or not 0 <= hours <= LONGEST_WINDOW_HOURS:
            self.fault(("game", "dedup_hours"), f"must be 0 to {LONGEST_WINDOW_HOURS:.0f} hours, not {shown(hours)}")
            hours = 0
        name, description = body.get("name", "game"), body.get("description", "")
        return self.text(("game", "name"), name), self.text(("game", "description"), description), float(hours)

    def headers(self, body: dict[str, Any]) -> tuple[str, ...]:
        self.refuse_unknown(("headers",), body, ("keep",))
        keep = body.get("keep", list(Plan("", "").headers))
        if not isinstance(keep, list):
            self.fault(("headers", "keep"), f'must be a list, as in keep = ["User-Agent"], not {shown(keep)}')
            return ()
        seen: dict[str, str] = {}
        for index, header in enumerate(keep):
            where: Where = ("headers", "keep", index)
            if not isinstance(header, str) or not _HEADER.fullmatch(header):
                self.fault(where, f"{shown(header)} is not a header name: use letters, digits and -, as in User-Agent")
                continue
            column = header_column(header)
            if header.lower() in SECRET_HEADERS:
                self.fault(where, f"{header} holds secrets and is never kept")
            elif column in RESERVED:
                self.fault(where, f"its column, {column}, is a column of every table")
            elif column in seen:
                self.fault(where, f"{header} and {seen[column]} have the same column, {column}")
            seen.setdefault(column, header)
        return tuple(seen.values())

    def envelope(self, body: dict[str, Any]) -> Envelope:
        names = tuple(Envelope.__dataclass_fields__)
        self.refuse_unknown(("envelope",), body, names)
        good: dict[str, str] = {}
        for name, path in body.items():
            where = ("envelope", name)
            if name not in names:
                continue
            if not isinstance(path, str) or not (self.is_path(path) or (name == "fields" and not path)):
                self.fault(where, f'must be the path of a key, as in "meta.time", not {shown(path)}')
            else:
                good[name] = path
        envelope = Envelope(**good)
        paths: dict[str, str] = {}
        for name in names[:-1]:
            other = paths.setdefault(getattr(envelope, name), name)
            if other != name:
                declared = name if name in good else other
                self.fault(("envelope", declared), f"{name} and {other} are both at {getattr(envelope, name)!r}")
        return envelope

    def is_path(self, path: str) -> bool:
        return bool(path) and all(path.split("."))

    def event(self, name: str, body: dict[str, Any], kept: Mapping[str, str]) -> Event:
        where: Where = ("events", name)
        self.refuse_unknown(where, body, _EVENT_KEYS)
        self.name(where, name, f'match = {{ event_type = "{name}" }}')
        table = body.get("table", name)
        at = (*where, "table") if "table" in body else where
        if table in VIEWS:
            self.fault(at, f"{table!r} is a reserved name in queries; give it another table")
        elif "table" in body and (not isinstance(table, str) or not NAME.fullmatch(table)):
            self.fault(at, f"{shown(table)} is not a valid table name: {NAME_RULE}")
        mode = body.get("mode", "quarantine")
        if mode not in MODES:
            suggestion = nearest(mode, MODES) or f"; the modes are {', '.join(MODES)}"
            self.fault((*where, "mode"), f"{shown(mode)} is not a mode{suggestion}")
        match = self.table((*where, "match"), body.get("match", {}))
        for path, value in match.items():
            if not self.is_path(path):
                self.fault((*where, "match", path), "must be the path of a key, as in meta.kind")
            if not isinstance(value, str | int | float | bool):
                self.fault((*where, "match", path), f"must be text, a number, true or false, not {shown(value)}")
        fields = self.table((*where, "fields"), body.get("fields", {}))
        declared = tuple(self.field((*where, "fields", key), key, value, kept) for key, value in fields.items())
        self.refuse_case_duplicates((*where, "fields"), fields)
        self.aliases((*where, "fields"), declared, kept)
        description, owner = (self.text((*where, key), body.get(key, "")) for key in ("description", "owner"))
        return Event(name, str(table), str(mode), description, owner, tuple(match.items()), declared)

    def name(self, where: Where, name: str, otherwise: str) -> None:
        if not NAME.fullmatch(name):
            slug = re.sub(r"[^a-z0-9_]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()).strip("_")[:64]
            better = f"write {slug}: " if NAME.fullmatch(slug) else ""
            self.fault(where, f"{better}{NAME_RULE}; if senders call it {name!r}, add {otherwise}")

    def refuse_case_duplicates(self, where: Where, names: Iterable[str]) -> None:
        seen: dict[str, str] = {}
        for name in names:
            other = seen.setdefault(name.lower(), name)
            if other != name:
                self.fault((*where, name), f"{name} and {other} differ only in case, so SQL treats them as one name")

    def field(self, where: Where, name: str, value: Any, kept: Mapping[str, str]) -> Field:
        if not isinstance(value, str | dict):
            self.fault(where, f'write {name} = "int", or {name} = {{ type = "int" }}; not {shown(value)}')
            return Field(name, Type("string"))
        body = {"type": value} if isinstance(value, str) else value
        self.refuse_unknown(where, body, _FIELD_KEYS)
        self.name(where, name, f'aliases = ["{name}"]')
        if name in RESERVED:
            self.fault(where, "is a column of every table; choose another name")
        elif name in kept:
            self.fault(where, f"is the column of header {kept[name]}; choose another name")
        type_ = self.type(where, body, isinstance(value, str))
        options: dict[str, Any] = {key: body[key] for key in body if key in _FIELD_KEYS and key != "type"}
        if type_ is None:
            return Field(name, Type("string"))
        before = len(self.faults)
        for below, message in option_faults(type_, options):
            self.fault((*where, *below), message)
        options.pop("aliases", None)
        aliases = self.alias_list(where, body.get("aliases", []))
        if len(self.faults) > before:
            return Field(name, type_, aliases=aliases)
        options |= {"enum": tuple(options.get("enum", ())), "aliases": aliases}
        return Field(name, type_, **options)

    def alias_list(self, where: Where, value: Any) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(alias, str) and alias for alias in value):
            return tuple(value)
        self.fault((*where, "aliases"), f'must be a list of former names, as in ["cost"], not {shown(value)}')
        return ()

    def type(self, where: Where, body: dict[str, Any], short: bool) -> Type | None:
        text = body.get("type", "enum" if "enum" in body else None)
        at = where if short or "type" not in body else (*where, "type")
        if text is None:
            self.fault(where, 'has no type, as in type = "string"')
            return None
        try:
            type_ = parse_type(text) if isinstance(text, str) else None
        except ValueError as error:
            self.fault(at, str(error))
            return None
        if type_ is None:
            self.fault(at, f"must be text in quotes, not {shown(text)}")
        elif type_.kind == "enum":
            if "enum" not in body:
                self.fault(at, 'needs the allowed values, as in enum = ["gold", "usd"]')
            return Type("string")
        return type_

    def aliases(self, where: Where, fields: tuple[Field, ...], kept: Mapping[str, str]) -> None:
        """Check that each alias is a former name of one column only."""
        owner = {field.name: field.name for field in fields}
        for field in fields:
            for index, alias in enumerate(field.aliases):
                at = (*where, field.name, "aliases", index)
                if alias == field.name or field.aliases.index(alias) < index:
                    self.fault(at, f"{alias!r} is listed twice")
                elif alias in RESERVED or alias in kept:
                    self.fault(at, f"{alias!r} is a column of every table")
                elif alias in owner:
                    self.fault(at, f"{alias!r} is already a name of field {owner[alias]}")
                owner.setdefault(alias, field.name)

    def route(self, route: str, name: Any, events: Mapping[str, Event], envelope: Envelope) -> str:
        where = ("routes", route)
        method, space, path = route.partition(" ")
        if method not in METHODS:
            suggestion = nearest(method, METHODS) or f"; the methods are {', '.join(METHODS)}"
            self.fault(where, f'must be "METHOD /path"{suggestion}')
        elif not space or not re.fullmatch(r"/\S*", path):
            self.fault(where, f'must be "METHOD /path", as in "{method} /shop/<item>"')
        elif "?" in re.sub(r"<[^>]*>", "", path):
            self.fault(where, "must be a path alone, without a query string")
        if not isinstance(name, str):
            self.fault(where, f"must be an event's name in quotes, not {shown(name)}")
        elif name not in events:
            self.fault(where, f"event {name!r} is not declared{nearest(name, events)}")
        elif any((path, value) != (envelope.event_type, name) for path, value in events[name].match):
            self.fault(where, f"event {name!r} is identified by its match, which a route does not send")
        return str(name)
