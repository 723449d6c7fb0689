"""Bytes -> typed rows. Pure: no clock, no disk; a bad event is a quarantine row, never an exception."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pyarrow as pa

from questlog.errors import Reason, Reject
from questlog.log import Entry, Gap, Position
from questlog.plan import Envelope, Event, Plan
from questlog.plan.schema import header_column, table_schema
from questlog.record import DEPTH_LIMIT, Record
from questlog.shape.columns import convert_fields, to_integer, to_text, to_timestamp

QUARANTINE = "quarantine"

Seen = Callable[[str], tuple[int, int, int] | None]
"""Client-chosen id -> (partition, offset, received ms) of its first record, if one is known."""


def never_seen(event_id: str) -> None:
    """The `Seen` of an empty history."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """What a batch became. Every record is counted in exactly one of rows, quarantine, duplicates, held."""

    tables: Mapping[str, pa.Table]
    duplicates: int
    held: int
    seen: Sequence[tuple[str, int, int, int]] = field(default_factory=tuple)

    def count(self, table: str) -> int:
        """Return how many rows *table* gets."""
        return self.tables[table].num_rows if table in self.tables else 0


def shape(
    entries: Sequence[Entry],
    plan: Plan,
    *,
    held: Mapping[str, Position] | None = None,
    seen: Seen = never_seen,
    gaps: Sequence[Gap] = (),
) -> Shaped:
    """Turn log entries into rows per table.

    *held* says how much of the log each table has: rows below are skipped. An event whose id the
    client chose is a duplicate if *seen*, or this batch before it, knows the id from another place
    within the plan's window.
    """
    batch = _Batch(plan, held or {}, seen)
    for entry in entries:
        batch.add(entry)
    for gap in gaps:
        batch.add_gap(gap)
    return batch.finish()


class _Batch:
    def __init__(self, plan: Plan, held: Mapping[str, Position], seen: Seen) -> None:
        self.plan, self.held_at, self.seen = plan, held, seen
        self.find = _event_finder(plan)
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.first: dict[str, tuple[int, int, int]] = {}
        self.duplicates = self.held = 0
        self.window_ms = int(plan.dedup_hours * 3_600_000)
        self.kept = {h.lower(): header_column(h) for h in plan.headers}

    def add(self, entry: Entry) -> None:
        """Put one record in exactly one place.  1 read  2 duplicate?  3 find its type  4 type its fields."""
        record = _read_record(entry, self.plan.envelope)
        if record.client_id and self._is_duplicate(record.id, entry, record.received):
            self.duplicates += 1
            return
        body, problem = _read_body(record)
        event: Event | None = None
        row: dict[str, Any] = {}
        if problem is None:
            event, problem = self.find(body)
        if problem is None and event is not None:
            row, problem = self._row(record, body, event)
        if problem is None and event is not None:
            self._put(event.table, entry, row)
            return
        assert problem is not None
        self._put(QUARANTINE, entry, self._quarantine_row(entry, record, body, problem))

    def add_gap(self, gap: Gap) -> None:
        """Record what the log lost: one quarantine row for the whole gap."""
        entry = Entry(gap.partition, gap.until - 1, b"", gap.received_ms)
        self._put(
            QUARANTINE,
            entry,
            {
                "event_id": f"gap-{gap.partition}-{gap.first}",
                "received_time": gap.received_ms * 1000,
                "reason": Reason.LOG_DAMAGED.value,
                "detail": f"offsets {gap.first} to {gap.until - 1}: {gap.reason}",
                "log_partition": gap.partition,
                "log_offset": gap.first,
                "plan_version": self.plan.version,
            },
        )

    def _is_duplicate(self, event_id: str, entry: Entry, received: int) -> bool:
        here = (entry.partition, entry.offset)
        known = self.first.get(event_id) or self.seen(event_id)
        if known is None or received - known[2] > self.window_ms:
            self.first[event_id] = (*here, received)
            return False
        return known[:2] != here

    def _put(self, table: str, entry: Entry, row: dict[str, Any]) -> None:
        if entry.offset < self.held_at.get(table, {}).get(entry.partition, 0):
            self.held += 1
        else:
            self.rows.setdefault(table, []).append(row)

    def _row(self, record: Record, body: dict[str, Any], event: Event) -> tuple[dict[str, Any], Reject | None]:
        names = self.plan.envelope
        time, bad_time = to_timestamp(lookup(body, names.event_time))
        sequence, bad_sequence = to_integer(lookup(body, names.sequence))
        lenient = event.mode == "observe"
        for bad, path in ((bad_time, names.event_time), (bad_sequence, names.sequence)):
            if bad and not lenient:
                return {}, Reject(Reason.BAD_ENVELOPE, path, bad)
        received = record.received * 1000
        fields, rescued, problem = convert_fields(event, _fields_of(body, names, event))
        if problem is not None and not lenient:
            return {}, problem
        for bad, path in ((bad_time, names.event_time), (bad_sequence, names.sequence)):
            if bad:
                rescued[path] = lookup(body, path)
        row = {
            "event_id": record.id,
            "event_type": event.name,
            "event_time": received if time is None else time,
            "received_time": received,
            "player_id": to_text(lookup(body, names.player_id)),
            "session_id": to_text(lookup(body, names.session_id)),
            "sequence": sequence,
            "_rescued": msgspec.json.encode(rescued).decode() if rescued else None,
            "raw_event": bytes(record.event).decode(),
            "plan_version": self.plan.version,
        }
        for name, value in record.headers.items():
            column = self.kept.get(name.lower())
            if column is not None:
                row[column] = value
        row.update(fields)
        return row, None

    def _quarantine_row(self, entry: Entry, record: Record, body: Any, problem: Reject) -> dict[str, Any]:
        claimed = lookup(body, self.plan.envelope.event_type) if isinstance(body, dict) else None
        raw = base64.b64decode(record.broken) if record.broken else bytes(record.event)
        return {
            "event_id": record.id,
            "event_type": claimed if isinstance(claimed, str) else None,
            "received_time": record.received * 1000,
            "reason": problem.reason.value,
            "field": problem.field or None,
            "detail": problem.detail or None,
            "raw_event": raw.decode("utf-8", "backslashreplace"),
            "record": entry.value,
            "log_partition": entry.partition,
            "log_offset": entry.offset,
            "plan_version": self.plan.version,
        }

    def finish(self) -> Shaped:
        tables = {
            name: pa.Table.from_pylist(rows, schema=table_schema(self.plan, name)) for name, rows in self.rows.items()
        }
        seen = tuple((event_id, *first) for event_id, first in self.first.items())
        return Shaped(tables, self.duplicates, self.held, seen)


_record_decoder = msgspec.json.Decoder(Record)
_json_decoder = msgspec.json.Decoder()


def _read_record(entry: Entry, names: Envelope) -> Record:
    """Return the record; an old producer's flat JSON becomes one, whatever else becomes a broken one."""
    try:
        return _record_decoder.decode(entry.value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        pass
    fallback_id = f"log-{entry.partition}-{entry.offset}"
    try:
        body = _json_decoder.decode(entry.value)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Record(1, fallback_id, entry.received_ms, broken=base64.b64encode(entry.value).decode())
    headers: dict[str, str] = {}
    event_id = None
    if isinstance(body, dict):
        headers = {k: v for k, v in body.items() if isinstance(v, str)}
        event_id = lookup(body, names.event_id)
    chosen = isinstance(event_id, str) and 0 < len(event_id) <= 200
    return Record(
        1,
        str(event_id) if chosen else fallback_id,
        entry.received_ms,
        chosen,
        headers,
        msgspec.Raw(entry.value),
    )


def _read_body(record: Record) -> tuple[Any, Reject | None]:
    if record.broken:
        return None, Reject(Reason.NOT_JSON)
    raw = bytes(record.event)
    try:
        body = _json_decoder.decode(raw)
    except RecursionError:
        return None, Reject(Reason.TOO_DEEP, detail=f"nested deeper than {DEPTH_LIMIT}")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return None, Reject(Reason.NOT_JSON, detail=str(error))
    if not isinstance(body, dict):
        return None, Reject(Reason.NOT_AN_OBJECT, detail=f"a JSON {type(body).__name__}")
    if raw.count(b"{") + raw.count(b"[") > DEPTH_LIMIT and _depth(body) > DEPTH_LIMIT:
        return None, Reject(Reason.TOO_DEEP, detail=f"nested deeper than {DEPTH_LIMIT}")
    return body, None


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
    return depth - 1


def lookup(body: Any, path: str) -> Any:
    """Return the value at a dotted *path*, or None."""
    value = body
    for part in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _event_finder(plan: Plan) -> Callable[[dict[str, Any]], tuple[Event | None, Reject | None]]:
    """Return a function that names the event type a body means: the plan's matches first, then its name."""
    matched = [event for event in plan.events.values() if event.match]
    named = {name: event for name, event in plan.events.items() if not event.match}
    path = plan.envelope.event_type

    def find(body: dict[str, Any]) -> tuple[Event | None, Reject | None]:
        for event in matched:
            if all(lookup(body, where) == value for where, value in event.match):
                return event, None
        name = lookup(body, path)
        if not isinstance(name, str):
            return None, Reject(Reason.NO_EVENT_TYPE, path)
        if name in named:
            return named[name], None
        return None, Reject(Reason.UNKNOWN_EVENT_TYPE, path, f"{name[:100]!r} is not in the plan")

    return find


def _fields_of(body: dict[str, Any], names: Envelope, event: Event) -> dict[str, Any]:
    """Return what may be fields: all that is neither envelope nor what matched."""
    source = lookup(body, names.fields) if names.fields else body
    if not isinstance(source, dict):
        return {}
    prefix = names.fields + "." if names.fields else ""
    paths = [getattr(names, n) for n in Envelope.__dataclass_fields__ if n != "fields"]
    paths += [where for where, _ in event.match]
    hidden = {p[len(prefix) :] for p in paths if p.startswith(prefix)}
    return {key: value for key, value in source.items() if key not in hidden}
