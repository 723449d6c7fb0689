"""Bytes -> typed rows. Pure: no clock, no disk; a bad event is a quarantine row, never an exception."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import compress
from operator import attrgetter, itemgetter
from typing import cast

import pyarrow as pa

from questlog.errors import Reason
from questlog.log import Entry, Gap, Position
from questlog.plan import Event, Plan
from questlog.plan.columns import QUARANTINE_TABLE as QUARANTINE
from questlog.record import LAST_MS, Line
from questlog.shape.columns import Part, join_parts, table_of_rows
from questlog.shape.fast import Fast, has_headers, read_lines
from questlog.shape.fast.precheck import Precheck
from questlog.shape.fields import Row, Rules, Verdict
from questlog.shape.read import Arrived, read_record

__all__ = ["QUARANTINE", "Place", "Seen", "Shaped", "never_seen", "precheck", "shape", "validate", "validate_entry"]

FAST_FROM = 64
"""Records of a batch that are worth whole columns."""
BLOCK = 4_096
"""Records made into columns at a time: so many, with all that is made of them, stay in the processor's cache."""

Place = tuple[int, int, int]
"""Partition, offset and received milliseconds of a record."""

Seen = Callable[[str], Place | None]
"""Client-chosen id -> the place of its first record, if one is known."""


def never_seen(event_id: str) -> None:
    """The `Seen` of an empty history."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """What a batch became. Every record is counted in exactly one of rows, quarantine, duplicates, held."""

    tables: Mapping[str, pa.Table]
    duplicates: int
    held: int
    seen: Sequence[tuple[str, int, int, int]] = field(default_factory=tuple)
    repeated: Mapping[str, int] = field(default_factory=dict)
    """The duplicates by event type; "" where it is not in the plan."""

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
    """Turn log entries into rows per table, in the order of the entries.

    *held* says how much of the log each table has: rows below are skipped. An event whose id the
    client chose is a duplicate if *seen*, or this batch before it, knows the id from another place
    within the plan's window.
    """
    ready = _ready(plan)
    batch = _Batch(ready.rules, entries, held or {}, seen)
    if len(entries) < FAST_FROM:
        batch.add_entries()
    else:
        batch.add_many(ready.fast)
    for index, gap in enumerate(gaps, len(entries)):
        batch.add_gap(index, gap)
    return batch.finish()


def validate(event: bytes, plan: Plan) -> Verdict:
    """Return the verdict on an event as it was sent. Its record, however encoded, gets the same one when it lands.

    No columns are built; the row holds none of the values that the server adds.
    """
    return _ready(plan).rules.validate(Arrived("", 0, False, {}, event))


def validate_entry(entry: Entry, plan: Plan) -> Verdict:
    """Return the verdict on an entry of a log, whoever wrote it, and its row if it has one. No columns are built."""
    rules = _ready(plan).rules
    return rules.validate(read_record(entry, plan.envelope, rules.headers))


def precheck(event: bytes, plan: Plan) -> tuple[Event, str | None] | None:
    """Return the event type and chosen id of an event that is certain to become a row, within a microsecond.

    None means that it is not certain: `validate` decides.
    """
    return _ready(plan).precheck.check(event)


_value_of, _partition_of, _offset_of = attrgetter("value"), attrgetter("partition"), attrgetter("offset")
_base64_of, _client_id_of = attrgetter("base64"), attrgetter("client_id")


class _Ready:
    """What a plan says, worked out once: a query shapes a small tail again and again."""

    def __init__(self, plan: Plan) -> None:
        self.rules = Rules(plan)

    @cached_property
    def fast(self) -> Fast:
        """The way for usual events; a batch must be worth the making of it."""
        return Fast(self.rules)

    @cached_property
    def precheck(self) -> Precheck:
        """The fast path for a single event when no row is needed."""
        return Precheck(self.fast)


_plans: dict[str, _Ready] = {}
_PLANS_KEPT = 8


def _ready(plan: Plan) -> _Ready:
    found = _plans.get(plan.version)
    if found is None or (found.rules.plan is not plan and found.rules.plan != plan):
        if len(_plans) >= _PLANS_KEPT:
            _plans.clear()
        found = _plans[plan.version] = _Ready(plan)
    return found


class _Batch:
    """One call of `shape`: where each record of it goes."""

    def __init__(self, rules: Rules, entries: Sequence[Entry], held: Mapping[str, Position], seen: Seen) -> None:
        self.rules, self.entries, self.held_at, self.seen = rules, entries, held, seen
        self.rows: dict[str, list[tuple[int, Row]]] = {}
        self.parts: list[Part] = []
        self.first: dict[str, Place] = {}
        self.repeated: Counter[str] = Counter()
        self.held = 0
        self.window_ms = int(rules.plan.dedup_hours * 3_600_000)

    def add_entries(self) -> None:
        """Put each record in exactly one place.  1 read  2 duplicate?  3 validate."""
        for index, entry in enumerate(self.entries):
            arrived = self._read(entry)
            if arrived.client_id and self._is_duplicate(arrived.id, entry, arrived.received):
                self._repeat(arrived)
            else:
                self._validate(index, entry, arrived)

    def add_many(self, fast: Fast) -> None:
        """Do what `add_entries` does: usual events by whole columns, the others one by one."""
        for start in range(0, len(self.entries), BLOCK):
            lines = read_lines(map(_value_of, self.entries[start : start + BLOCK]))
            places: Sequence[int] = range(start, start + len(lines))
            left: list[int] = []
            if None in lines or any(map(_base64_of, lines)) or any(map(_client_id_of, lines)):
                places = self._usual(places, lines, left)
                lines = [lines[place - start] for place in places]
            parts, unusual = fast.rows(places, cast(list[Line], lines))
            for part in parts:
                self._put_part(part)
            for place in (*left, *unusual):
                self._validate(place, self.entries[place], self._read(self.entries[place]))

    def _usual(self, places: Sequence[int], lines: Sequence[Line | None], left: list[int]) -> list[int]:
        """Return the places of records that may be usual, without duplicates; *left* gets the others."""
        usual: list[int] = []
        for place, line in zip(places, lines, strict=True):
            if line is not None and not line.base64 and not line.client_id:
                usual.append(place)
                continue
            entry = self.entries[place]
            if line is None or line.base64 or not has_headers(line):
                arrived = self._read(entry)
                if not (arrived.client_id and self._is_duplicate(arrived.id, entry, arrived.received)):
                    left.append(place)
                    continue
            elif not self._is_duplicate(line.id, entry, line.received):
                usual.append(place)
                continue
            self._repeat(self._read(entry))
        return usual

    def _read(self, entry: Entry) -> Arrived:
        return read_record(entry, self.rules.envelope, self.rules.headers)

    def _repeat(self, arrived: Arrived) -> None:
        event = self.rules.validate(arrived).event
        self.repeated[event.name if event else ""] += 1

    def _validate(self, index: int, entry: Entry, arrived: Arrived) -> None:
        verdict = self.rules.validate(arrived)
        if verdict.row is not None and verdict.event is not None:
            self._put(verdict.event.table, index, entry, verdict.row)
        else:
            self._put(QUARANTINE, index, entry, self._quarantine_row(entry, arrived, verdict))

    def _is_duplicate(self, event_id: str, entry: Entry, received: int) -> bool:
        """Return whether the id is known from another place, not too long before or after.

        After: a batch that is read again finds the places that its own end has left behind.
        """
        known = self.first.get(event_id) or self.seen(event_id)
        if known is None or abs(received - known[2]) > self.window_ms:
            self.first[event_id] = (entry.partition, entry.offset, received)
            return False
        return known[:2] != (entry.partition, entry.offset)

    def _put(self, table: str, index: int, entry: Entry, row: Row) -> None:
        if entry.offset < self.held_at.get(table, {}).get(entry.partition, 0):
            self.held += 1
        else:
            self.rows.setdefault(table, []).append((index, row))

    @cached_property
    def lowest(self) -> dict[int, int]:
        """Partition -> the lowest offset of this batch: nearly always nothing of it is held."""
        partitions = set(map(_partition_of, self.entries))
        if len(partitions) == 1:
            return {partition: min(map(_offset_of, self.entries)) for partition in partitions}
        found: dict[int, int] = {}
        for entry in self.entries:
            found[entry.partition] = min(entry.offset, found.get(entry.partition, entry.offset))
        return found

    def _put_part(self, part: Part) -> None:
        held = self.held_at.get(part.table, {})
        if held and any(offset < held.get(partition, 0) for partition, offset in self.lowest.items()):
            entries = (self.entries[index] for index in part.places)
            kept = [entry.offset >= held.get(entry.partition, 0) for entry in entries]
            if not all(kept):
                self.held += kept.count(False)
                part = Part(part.table, list(compress(part.places, kept)), part.rows.filter(pa.array(kept)))
        if part.places:
            self.parts.append(part)

    def add_gap(self, index: int, gap: Gap) -> None:
        """Record what the log lost: one quarantine row for the whole gap."""
        received = min(max(gap.received_ms, 0), LAST_MS)
        row = {
            "event_id": f"gap-{gap.partition}-{gap.first}",
            "received_time": received * 1000,
            "reason": Reason.LOG_DAMAGED.value,
            "detail": f"offsets {gap.first} to {gap.until - 1}: {gap.reason}",
            "log_partition": gap.partition,
            "log_offset": gap.first,
            "plan_version": self.rules.plan.version,
        }
        self._put(QUARANTINE, index, Entry(gap.partition, gap.until - 1, b"", received), row)

    def _quarantine_row(self, entry: Entry, arrived: Arrived, verdict: Verdict) -> Row:
        assert verdict.reject is not None
        return {
            "event_id": arrived.id,
            "event_type": verdict.claimed,
            "received_time": arrived.received * 1000,
            "reason": verdict.reject.reason.value,
            "field": verdict.reject.field or None,
            "detail": verdict.reject.detail or None,
            "raw_event": arrived.raw.decode("utf-8", "backslashreplace"),
            "record": entry.value,
            "log_partition": entry.partition,
            "log_offset": entry.offset,
            "plan_version": self.rules.plan.version,
        }

    def finish(self) -> Shaped:
        """Build the columns."""
        for name, rows in self.rows.items():
            rows.sort(key=itemgetter(0))
            self.parts.append(Part(name, [index for index, _ in rows], table_of_rows(self.rules.schema(name), rows)))
        tables = join_parts(self.parts)
        seen = tuple((event_id, *place) for event_id, place in self.first.items())
        return Shaped(tables, self.repeated.total(), self.held, seen, self.repeated)
