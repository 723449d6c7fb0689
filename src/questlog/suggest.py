"""Suggests what a plan lacks, from events that were sent: event types, fields and their types.

Events are validated as `shape` does, but in the mode `observe`: their rescued members are what the plan lacks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from questlog.log import Entry
from questlog.plan import Envelope, Event, Field, Plan, Type
from questlog.plan.columns import header_column
from questlog.plan.evolve import column_change
from questlog.plan.infer import ObservedValues
from questlog.plan.load import RESERVED, VIEWS
from questlog.plan.parse import NAME
from questlog.plan.version import with_version
from questlog.record import encode_record
from questlog.shape.fields import FieldRule, Rules
from questlog.shape.read import Arrival, Body, read_body, read_members, read_record, read_value
from questlog.types import DoesNotFit, to_timestamp

MOST_EVENTS, MOST_FIELDS = 200, 200
"""More of them are not types or fields but ids in the wrong place."""
GUESSED_FROM = 1000
_PERSONAL = re.compile(r"e_?mail|(^|_)(ip|ip_?address|phone|address|birthday|(first|last|full|real)_?name)($|_)")
_COMMON_KEYS = {
    "event_type": ("event_type", "event", "event_name", "eventType", "eventName", "type", "name", "action", "kind"),
    "event_id": ("event_id", "eventId", "insert_id"),
    "event_time": ("event_time", "eventTime", "timestamp", "client_time", "time", "ts", "created_at"),
    "sent_time": ("sent_time", "sentTime", "sent_at", "sentAt"),
    "player_id": ("player_id", "playerId", "user_id", "userId", "uid", "distinct_id", "player", "user"),
    "session_id": ("session_id", "sessionId", "session"),
    "sequence": ("sequence", "seq", "index"),
    "fields": ("properties", "event_data", "eventData", "params", "parameters", "payload", "data", "props"),
}
"""Keys that senders use for what every event has, the most common first."""


@dataclass(slots=True)
class _Missing:
    """The members of one event type that are not in the plan, in the order in which they came."""

    events: int = 0
    keys: dict[str, ObservedValues] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Additions to a plan: new `events`, and `fields` of existing events. `notes` explain each.

    `left_out` lists what was sent but cannot be suggested, `read` counts the events.
    """

    plan: Plan
    events: tuple[Event, ...]
    fields: dict[str, tuple[Field, ...]]
    notes: dict[str, dict[str, str]]
    left_out: tuple[str, ...]
    read: int

    @property
    def merged(self) -> Plan:
        """The plan with everything added."""
        events = {
            name: replace(event, fields=(*event.fields, *self.fields.get(name, ())))
            for name, event in self.plan.events.items()
        }
        return with_version(replace(self.plan, events=events | {event.name: event for event in self.events}))


class Suggester:
    """Takes events one by one; `finish` returns what the plan lacks."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._missing: dict[str, _Missing] = {}
        self._named: dict[str, str] = {}
        self._skipped: Counter[str] = Counter()
        self._read = 0
        lenient = {name: replace(event, mode="observe") for name, event in plan.events.items()}
        self._working = replace(plan, events=lenient)
        self._rules = Rules(self._working)

    def add(self, raw: bytes) -> None:
        """Add one event as it was sent."""
        self._read += 1
        verdict = self._rules.validate(self._arrival(raw))
        if verdict.event is None and verdict.claimed is not None and self._is_new(verdict.claimed):
            verdict = self._rules.validate(self._arrival(raw))
        if verdict.event is None or verdict.row is None:
            assert verdict.reject is not None
            self._skipped[verdict.reject.reason.value] += 1
            return
        missing = self._missing.setdefault(verdict.event.name, _Missing())
        missing.events += 1
        rescued = verdict.row["_rescued"]
        self.add_rescued(verdict.event.name, rescued.encode() if rescued else b"{}")

    def add_rescued(self, event: str, rescued: bytes, events: int = 0) -> None:
        """Add the rescued members of an event of the plan; *events* is added to its count."""
        self._read += events
        missing = self._missing.setdefault(event, _Missing())
        missing.events += events
        rules = {name: rule for rule in self._rules.events[event].fields for name in rule.names}
        for key, raw in (read_members(rescued) or {}).items():
            value = read_value(raw)
            if key in rules and (value is None or _fits(rules[key], value)):
                continue  # it has been added to the plan since
            if key in missing.keys or len(missing.keys) < MOST_FIELDS:
                missing.keys.setdefault(key, ObservedValues()).add(value)

    def _arrival(self, raw: bytes) -> Arrival:
        record = encode_record(raw, id="suggested", received_ms=0, is_json=False)
        return read_record(Entry(0, 0, record, 0), self._working.envelope, {})

    def _is_new(self, claimed: str) -> bool:
        """Add the event type to the working plan and return True, unless it is known or there are too many."""
        if claimed in self._named or len(self._named) >= MOST_EVENTS or not claimed:
            return False
        name = _free_name(claimed, {*self._working.events, *self._working.tables})
        match = () if name == claimed else ((self.plan.envelope.event_type, claimed),)
        table = name if name not in VIEWS else _free_name(f"{name}_table", self._working.tables)
        self._named[claimed] = name
        event = Event(name, table, "observe", match=match)
        self._working = replace(self._working, events={**self._working.events, name: event})
        self._rules = Rules(self._working)
        return True

    def finish(self) -> Suggestion:
        """Return what the plan lacks."""
        events: list[Event] = []
        fields: dict[str, tuple[Field, ...]] = {}
        notes: dict[str, dict[str, str]] = {}
        left_out: list[str] = []
        columns = {table: _field_types(events) for table, events in self._working.tables.items()}
        for name, missing in self._missing.items():
            event = self._working.events[name]
            additions = _Fields(self.plan, event, missing, columns[event.table])
            notes[name] = additions.notes
            left_out += additions.left_out
            if name in self.plan.events:
                if additions.fields:
                    fields[name] = tuple(additions.fields)
            else:
                additions.notes[""] = f"seen {missing.events:,} times" if missing.events > 1 else "seen once"
                events.append(replace(event, mode="quarantine", fields=tuple(additions.fields)))
        left_out += [f"{reason}: {count:,} of the events" for reason, count in self._skipped.most_common()]
        return Suggestion(self.plan, tuple(events), fields, notes, tuple(left_out), self._read)


class _Fields:
    """The fields that one event lacks. *columns* are those its table has or will get, with their types."""

    def __init__(self, plan: Plan, event: Event, missing: _Missing, columns: dict[str, Type]) -> None:
        self.fields: list[Field] = []
        self.notes: dict[str, str] = {}
        self.left_out: list[str] = []
        self._event, self._missing, self._columns = event, missing, columns
        declared = {name: field.type for field in event.fields for name in (field.name, *field.aliases)}
        paths = {getattr(plan.envelope, name) for name in Envelope.__dataclass_fields__} - {""}
        self._unnameable = RESERVED.union(map(header_column, plan.headers), {""})
        # A key that is a name keeps it, whichever came first.
        self._taken = {*self._unnameable, *declared, *columns, *filter(NAME.fullmatch, missing.keys)}
        for key, seen in missing.keys.items():
            if key in declared:
                self._leave(key, f"{_values(seen)} not fit its rules" + _better(seen, str(declared[key])))
            elif key in paths:
                self._leave(key, f"{_values(seen)} not fit the envelope, which reads this key")
            else:
                self._add(key, seen)

    def _leave(self, key: str, why: str) -> None:
        self.left_out.append(f"{self._event.name}.{key}: {why}")

    def _add(self, key: str, seen: ObservedValues) -> None:
        type_ = seen.type()
        if type_ is None:
            return self._leave(key, f"{seen.why_none()}; the field stays in _rescued")
        if key in self._unnameable:
            return self._leave(key, "every table has a column of that name; the field stays in _rescued")
        if key in self._columns:  # of another event in the same table
            column = self._columns[key]
            if type_ != column and (type_.kind == "struct" or column_change(type_, column) != "widening"):
                why = f"it is {type_}, but the table's column of that name is {column}; the field stays in _rescued"
                return self._leave(key, why)
            type_ = column
        name = key if NAME.fullmatch(key) else _free_name(key, self._taken)
        self._taken.add(name)
        self._columns[name] = type_
        aliases = () if name == key else (key,)
        self.fields.append(Field(name, type_, aliases=aliases, pii=bool(_PERSONAL.search(name))))
        note = f"in {seen.count:,} of {self._missing.events:,} events"
        examples = seen.examples_text() if type_.kind == "string" and not self.fields[-1].pii else ""
        note = "always sent" if seen.count == self._missing.events else note
        self.notes[name] = note + (examples and f": {examples}")


def _field_types(events: Iterable[Event]) -> dict[str, Type]:
    return {field.name: field.type for event in events for field in event.fields}


def _fits(rule: FieldRule, value: Any) -> bool:
    try:
        rule.convert(value)
    except DoesNotFit:
        return False
    return True


def _better(seen: ObservedValues, type_: str) -> str:
    inferred = seen.type()
    return "" if inferred is None or str(inferred) == type_ else f": it is {type_}, the values are {inferred}"


def _values(seen: ObservedValues) -> str:
    return "1 value does" if seen.count == 1 else f"{seen.count:,} values do"


def _free_name(text: str, taken: Iterable[str]) -> str:
    """Return *text* if it is a free name, or a free name made from it."""
    used = set(taken)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    name = re.sub(r"[^a-z0-9_]+", "_", snake).strip("_")[:60]
    if not NAME.fullmatch(name):
        name = f"x_{name}".rstrip("_")[:60]
    if text == name or NAME.fullmatch(text):
        name = text
    number, free = 2, name
    while free in used:
        free, number = f"{name[:60]}_{number}", number + 1
    return free


def guess_envelope(raws: Iterable[bytes]) -> Envelope:
    """Return where these events seem to hold what every event has; paths that cannot be guessed are the defaults."""
    bodies = [body for body in map(read_body, raws) if isinstance(body, Body)]
    paths: dict[str, str] = {}
    for name, keys in _COMMON_KEYS.items():
        key = next((key for key in keys if key not in paths.values() and _is_everywhere(bodies, name, key)), None)
        if key is not None:
            paths[name] = key
    defaults = Envelope()
    clash = {getattr(defaults, name) for name in _COMMON_KEYS if name not in paths} & set(paths.values())
    return Envelope(**{name: key for name, key in paths.items() if key not in clash})


def _is_everywhere(bodies: list[Body], name: str, key: str) -> bool:
    """Return whether nearly all events have *key* with a value of the right kind."""
    values = [body.get(key) for body in bodies if key in body.members]
    if not values or len(values) < 0.9 * len(bodies):
        return False
    if name == "fields":
        return all(isinstance(value, dict) or value is None for value in values)
    if name == "event_type":
        distinct = len(set(map(str, values)))
        return all(isinstance(value, str) for value in values) and distinct <= max(20, len(values) / 4)
    if name == "event_id":
        texts = [value for value in values if isinstance(value, str)]
        return len(set(texts)) == len(bodies)
    if name in ("event_time", "sent_time"):
        return all(value is not None and not to_timestamp(value)[1] for value in values)
    if name == "sequence":
        return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    return all(isinstance(value, str | int) and not isinstance(value, bool) for value in values)
