"""The scalar path: one event's JSON -> its row, or the reason why it has none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from questlog.errors import Reason, Reject
from questlog.plan import Envelope, Event, Field, Plan
from questlog.plan.columns import ENVELOPE, LAST, header_column, table_schema
from questlog.plan.values import convert, to_integer, to_text
from questlog.record import can_be_id
from questlog.shape.read import Arrival, Body, is_null, read_body, read_members, read_value
from questlog.types import DoesNotFit, short, to_timestamp

SERVER_COLUMNS = frozenset(column.name for column in (*ENVELOPE, *LAST))
"""Columns that only the server and the envelope fill; no header or field can set them."""
LONGEST_WAIT_MICROS = 30 * 86_400 * 1_000_000
"""The longest wait at a sender that still corrects its clock; after more, the clock was probably set in between."""

Row = dict[str, Any]
Tree = dict[str, "Tree"]
"""Paths as nested keys; an empty tree ends a path."""


@dataclass(slots=True)
class Verdict:
    """The result for one event: a row of `event`'s table, or a rejection. `claimed` is the type that it names."""

    event: Event | None = None
    row: Row | None = None
    reject: Reject | None = None
    claimed: str | None = None


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A field whose bounds and default are column values and whose pattern is compiled."""

    field: Field
    names: tuple[str, ...]
    default: Any
    low: Any
    high: Any
    pattern: re.Pattern[str] | None

    def convert(self, value: Any) -> Any:
        """Return *value* as the column holds it; raise `DoesNotFit`."""
        field = self.field
        typed = convert(field.type, value)
        if field.enum and not any(same(value, allowed) for allowed in field.enum):
            raise DoesNotFit(Reason.NOT_IN_ENUM, f"{short(value)} is none of {', '.join(map(str, field.enum))}")
        if field.max_length is not None and isinstance(typed, str | list) and len(typed) > field.max_length:
            raise DoesNotFit(Reason.TOO_LONG, f"length {len(typed)}, {field.max_length} at most")
        if self.pattern is not None and isinstance(typed, str) and not self.pattern.search(typed):
            raise DoesNotFit(Reason.NO_MATCH, f"{short(value)} does not match {field.pattern}")
        if self.low is not None and typed < self.low:
            raise DoesNotFit(Reason.OUT_OF_RANGE, f"{short(value)}: at least {field.min}")
        if self.high is not None and typed > self.high:
            raise DoesNotFit(Reason.OUT_OF_RANGE, f"{short(value)}: at most {field.max}")
        return typed


def same(value: Any, declared: Any) -> bool:
    """Return whether a JSON value equals the one that a plan names; true does not equal 1."""
    return isinstance(value, bool) is isinstance(declared, bool) and bool(value == declared)


@dataclass(frozen=True, slots=True)
class EventRule:
    """An event with its fields' rules. `consumed` are paths among its fields that belong to the envelope or `match`."""

    event: Event
    fields: tuple[FieldRule, ...]
    consumed: Tree

    @property
    def lenient(self) -> bool:
        """Whether a field that does not fit goes to `_rescued` alone, instead of the whole event to quarantine."""
        return self.event.mode == "observe"


class Rules:
    """A plan's rules, compiled once for all events."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.envelope = plan.envelope
        columns = {name.lower(): header_column(name) for name in plan.headers}
        self.headers = {name: column for name, column in columns.items() if column not in SERVER_COLUMNS}
        self.events = {name: self._event_rule(event) for name, event in plan.events.items()}
        self.matched = [event for event in plan.events.values() if event.match]
        self.named = {name: event for name, event in plan.events.items() if not event.match}
        self._schemas: dict[str, pa.Schema] = {}

    def schema(self, table: str) -> pa.Schema:
        """Return the columns of *table*."""
        if table not in self._schemas:
            self._schemas[table] = table_schema(self.plan, table)
        return self._schemas[table]

    def _event_rule(self, event: Event) -> EventRule:
        # A header's column belongs to the server: a field of that name stays in `_rescued`.
        reserved = SERVER_COLUMNS.union(self.headers.values())
        fields = tuple(_field_rule(field) for field in event.fields if field.name not in reserved)
        return EventRule(event, fields, consumed_paths(self.envelope, event))

    def validate(self, arrival: Arrival) -> Verdict:
        """Return the event's row or its rejection.  1 JSON  2 type  3 envelope  4 fields."""
        body = read_body(arrival.raw)
        if isinstance(body, Reject):
            return Verdict(reject=body)
        claimed = body.get(self.envelope.event_type)
        verdict = Verdict(claimed=claimed if isinstance(claimed, str) else None)
        event = self.find(body.get, claimed)
        if isinstance(event, Reject):
            verdict.reject = event
            return verdict
        verdict.event = event
        rule = self.events[event.name]
        row, rescued, problem = self._envelope(body, arrival, rule)
        if problem is None or rule.lenient:
            source, unfit = self._source(body)
            problem = problem or unfit
            if unfit is not None:
                rescued.append((self.envelope.fields, body.raw(self.envelope.fields)))
            if problem is None or rule.lenient:
                unknown, bad = _convert_fields(rule, source, arrival.used, row)
                rescued += unknown
                problem = problem or bad
        if problem is not None and not rule.lenient:
            verdict.reject = problem
            return verdict
        row["_rescued"] = as_json(rescued)
        verdict.row = row
        return verdict

    def find(self, get: Callable[[str], Any], claimed: Any) -> Event | Reject:
        """Return the event type of a body that *get* reads: the first match in the plan, or else the type it names."""
        for event in self.matched:
            if all(same(get(path), value) for path, value in event.match):
                return event
        path = self.envelope.event_type
        if not isinstance(claimed, str):
            return Reject(Reason.NO_EVENT_TYPE, path)
        if claimed in self.named:
            return self.named[claimed]
        return Reject(Reason.UNKNOWN_EVENT_TYPE, path, f"{claimed[:100]!r} is not in the plan")

    def _envelope(
        self, body: Body, arrival: Arrival, rule: EventRule
    ) -> tuple[Row, list[tuple[str, msgspec.Raw | None]], Reject | None]:
        """Return the columns that every event has, the members that do not fit them, and the first problem."""
        names = self.envelope
        received = arrival.received * 1000
        read = {
            "device_time": to_timestamp(body.get(names.event_time)),
            "sent_time": to_timestamp(body.get(names.sent_time)),
            "player_id": to_text(body.get(names.player_id)),
            "session_id": to_text(body.get(names.session_id)),
            "sequence": to_integer(body.get(names.sequence)),
        }
        chosen = body.get(names.event_id)
        unfit = {name: problem for name, (_, problem) in read.items() if problem}
        if chosen not in (None, "") and not can_be_id(chosen):
            unfit["event_id"] = f"{short(chosen)} is not text of 1 to 200 characters"
        paths = {name: getattr(names, "event_time" if name == "device_time" else name) for name in unfit}
        problem = next((Reject(Reason.BAD_ENVELOPE, paths[name], unfit[name]) for name in unfit), None)
        row: Row = {name: value for name, (value, _) in read.items()}
        if row["sent_time"] is None and arrival.sent is not None:
            row["sent_time"] = arrival.sent * 1000
        row |= {
            "event_time": event_time(row["device_time"], row["sent_time"], received),
            "clock_skew_ms": None if row["sent_time"] is None else (received - row["sent_time"]) // 1000,
            "event_id": arrival.id,
            "event_type": rule.event.name,
            "received_time": received,
            **arrival.headers,
            "raw_event": arrival.raw.decode(),
            "plan_version": self.plan.version,
        }
        return row, [(path, body.raw(path)) for path in paths.values()], problem

    def _source(self, body: Body) -> tuple[Mapping[str, msgspec.Raw], Reject | None]:
        """Return the object that holds the fields."""
        path = self.envelope.fields
        if not path:
            return body.members, None
        raw = body.raw(path)
        if raw is None:
            return {}, None
        members = read_members(raw)
        if members is None:
            return {}, Reject(Reason.BAD_ENVELOPE, path, "is not an object of fields")
        return members, None


def event_time(device: int | None, sent: int | None, received: int) -> int:
    """Return when an event happened, by our clock; all times are microseconds since 1970.

    A sender's clock may be wrong but measures how long the event waited, so that wait is subtracted from *received*.
    Without the sender's time the result is *received*. An impossible wait (negative, or over a month) corrects nothing.
    """
    if device is None:
        return received
    if sent is None or not 0 <= sent - device <= LONGEST_WAIT_MICROS:
        return device
    return received - (sent - device)


def _field_rule(field: Field) -> FieldRule:
    return FieldRule(
        field,
        (field.name, *field.aliases),
        _declared(field, field.default),
        _declared(field, field.min),
        _declared(field, field.max),
        None if field.pattern is None else re.compile(field.pattern),
    )


def _declared(field: Field, value: Any) -> Any:
    """Return a value of the plan as the column holds it; a bound that lies between two values stays exact."""
    if value is None:
        return None
    try:
        return convert(field.type, value)
    except DoesNotFit:
        return Decimal(str(value)) if isinstance(value, int | float) else None


def consumed_paths(names: Envelope, event: Event) -> Tree:
    """Return the paths among an event's fields that its envelope or its `match` reads."""
    prefix = names.fields + "." if names.fields else ""
    paths = [getattr(names, name) for name in Envelope.__dataclass_fields__ if name != "fields"]
    paths += [path for path, _ in event.match]
    tree: Tree = {}
    for path in paths:
        if path.startswith(prefix):
            node = tree
            for part in path[len(prefix) :].split("."):
                node = node.setdefault(part, {})
    return tree


def _convert_fields(
    rule: EventRule, source: Mapping[str, msgspec.Raw], used: Iterable[str], row: Row
) -> tuple[list[tuple[str, msgspec.Raw | None]], Reject | None]:
    """Put each field's value into *row*; return the members left over, unknown or unfit, and the first problem."""
    left: dict[str, msgspec.Raw | None] = dict(source)
    problem: Reject | None = None
    for each in rule.fields:
        given = [name for name in each.names if name in source and not is_null(source[name])]
        for name in each.names:
            if name in source and name not in given:
                left.pop(name, None)
        name = each.field.name
        if not given:
            if each.default is not None:
                row[name] = each.default
            elif each.field.required:
                problem = problem or Reject(Reason.MISSING_FIELD, name, "is required")
            continue
        try:
            row[name] = each.convert(read_value(source[given[0]]))
        except DoesNotFit as error:
            problem = problem or Reject(error.reason, name + error.path, error.detail)
        else:
            left.pop(given[0], None)
    declared = {name for each in rule.fields for name in each.names}
    for key in [key for key in left if key in used or (key in rule.consumed and key not in declared)]:
        if key in used or _all_consumed(source[key], rule.consumed[key]):
            del left[key]
    return list(left.items()), problem


def _all_consumed(raw: msgspec.Raw, tree: Tree) -> bool:
    """Return whether *raw* holds nothing outside the paths of *tree*."""
    if not tree or is_null(raw):
        return True
    members = read_members(raw)
    if members is None:
        return False
    return all(key in tree and _all_consumed(member, tree[key]) for key, member in members.items())


def as_json(members: list[tuple[str, msgspec.Raw | None]]) -> str | None:
    """Return a JSON object of *members*, their values byte for byte as they were sent."""
    parts = [msgspec.json.encode(key) + b":" + bytes(raw) for key, raw in members if raw is not None]
    return (b"{" + b",".join(parts) + b"}").decode() if parts else None
