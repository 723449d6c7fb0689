"""Bytes -> typed rows. Pure: no clock, no disk; a bad event becomes a quarantine row, never an exception.

The scalar path (`fields.py`) shapes one event at a time and defines what is right. The fast path (`fast/`) shapes
whole batches into the same rows, and leaves any event that it is not certain of to the scalar path.
"""

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
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.record import LAST_MS, Line
from questlog.shape.columns import Part, join_parts, table_of_rows
from questlog.shape.fast import FastPath, has_headers, read_lines
from questlog.shape.fast.precheck import Precheck
from questlog.shape.fields import Row, Rules, Verdict
from questlog.shape.read import Arrival, read_record

__all__ = [
    "FindSeen",
    "Occurrence",
    "Shaped",
    "never_seen",
    "precheck",
    "shape",
    "validate",
    "validate_entry",
]

FAST_FROM = 64
"""The smallest batch for which the fast path pays."""
BLOCK = 4_096
"""Records turned into columns at a time: this many, with everything derived from them, fit into the processor's
cache."""

Occurrence = tuple[int, int, int]
"""Partition, offset and received milliseconds of one record."""

FindSeen = Callable[[str], Occurrence | None]
"""Id chosen by a client -> the first record that carried it, if there is one."""


def never_seen(event_id: str) -> None:
    """The `FindSeen` of an empty history."""


@dataclass(frozen=True, slots=True)
class Shaped:
    """The result of one batch. Every record counts once: as a row, in quarantine, as a duplicate or as committed.

    `committed` counts records that their table already held. `seen` lists the ids that clients chose, each with its
    first record.
    """

    tables: Mapping[str, pa.Table]
    duplicates: int
    committed: int
    seen: Sequence[tuple[str, int, int, int]] = field(default_factory=tuple)
    repeated: Mapping[str, int] = field(default_factory=dict)
    """The duplicates by event type; "" for types that are not in the plan."""

    def count(self, table: str) -> int:
        """Return the number of new rows in *table*."""
        return self.tables[table].num_rows if table in self.tables else 0


def shape(
    entries: Sequence[Entry],
    plan: Plan,
    *,
    committed: Mapping[str, Position] | None = None,
    seen: FindSeen = never_seen,
    gaps: Sequence[Gap] = (),
) -> Shaped:
    """Turn log entries into rows per table, in the order of the entries.

    *committed* maps tables to the part of the log that they already hold; those rows are skipped. An event whose
    client chose its id is a duplicate if *seen*, or an earlier entry of this batch, has that id on another record
    received within the plan's window.
    """
    compiled = _compile(plan)
    batch = _Batch(compiled.rules, entries, committed or {}, seen)
    if len(entries) < FAST_FROM:
        batch.add_one_by_one()
    else:
        batch.add_by_columns(compiled.fast)
    for index, gap in enumerate(gaps, len(entries)):
        batch.add_gap(index, gap)
    return batch.finish()


def validate(event: bytes, plan: Plan) -> Verdict:
    """Return the verdict on an event as it was sent. Its record, however encoded, gets the same one when it lands.

    No columns are built; the row holds none of the values that the server adds.
    """
    return _compile(plan).rules.validate(Arrival("", 0, False, {}, event))


def validate_entry(entry: Entry, plan: Plan) -> Verdict:
    """Return the verdict on a log entry of any producer, and its row if it has one. No columns are built."""
    rules = _compile(plan).rules
    return rules.validate(read_record(entry, plan.envelope, rules.headers))


def precheck(event: bytes, plan: Plan) -> tuple[Event, str | None] | None:
    """Return the event type and chosen id of an event that is certain to become a row; takes about two microseconds.

    None means that it is not certain: `validate` decides.
    """
    return _compile(plan).precheck.check(event)


_value_of, _partition_of, _offset_of = attrgetter("value"), attrgetter("partition"), attrgetter("offset")
_base64_of, _client_id_of = attrgetter("base64"), attrgetter("client_id")


class _CompiledPlan:
    """A plan's rules and decoders, built once: a query shapes a small tail again and again."""

    def __init__(self, plan: Plan) -> None:
        self.rules = Rules(plan)

    @cached_property
    def fast(self) -> FastPath:
        """The fast path; building it costs more than a small batch on the scalar path."""
        return FastPath(self.rules)

    @cached_property
    def precheck(self) -> Precheck:
        """The fast path for a single event when no row is needed."""
        return Precheck(self.fast)


_compiled: dict[str, _CompiledPlan] = {}
_PLANS_KEPT = 8


def _compile(plan: Plan) -> _CompiledPlan:
    compiled = _compiled.get(plan.version)
    if compiled is None or (compiled.rules.plan is not plan and compiled.rules.plan != plan):
        if len(_compiled) >= _PLANS_KEPT:
            _compiled.clear()
        compiled = _compiled[plan.version] = _CompiledPlan(plan)
    return compiled


class _Batch:
    """The state of one call of `shape`."""

    def __init__(
        self, rules: Rules, entries: Sequence[Entry], positions: Mapping[str, Position], seen: FindSeen
    ) -> None:
        self.rules, self.entries, self.positions, self.seen = rules, entries, positions, seen
        self.rows: dict[str, list[tuple[int, Row]]] = {}
        self.parts: list[Part] = []
        self.first: dict[str, Occurrence] = {}
        self.repeated: Counter[str] = Counter()
        self.committed = 0
        self.window_ms = int(rules.plan.dedup_hours * 3_600_000)

    def add_one_by_one(self) -> None:
        """Shape every record on the scalar path.  1 read  2 drop duplicates  3 validate."""
        for index, entry in enumerate(self.entries):
            arrival = self._read(entry)
            if arrival.client_id and self._is_duplicate(arrival.id, entry, arrival.received):
                self._count_repeat(arrival)
            else:
                self._validate(index, entry, arrival)

    def add_by_columns(self, fast: FastPath) -> None:
        """Shape every record, block by block.  1 drop duplicates  2 fast path  3 scalar path for the rest."""
        for start in range(0, len(self.entries), BLOCK):
            lines = read_lines(map(_value_of, self.entries[start : start + BLOCK]))
            indices: Sequence[int] = range(start, start + len(lines))
            scalar: list[int] = []
            if None in lines or any(map(_base64_of, lines)) or any(map(_client_id_of, lines)):
                indices = self._candidates(indices, lines, scalar)
                lines = [lines[index - start] for index in indices]
            parts, refused = fast.rows(indices, cast(list[Line], lines))
            for part in parts:
                self._put_part(part)
            for index in (*scalar, *refused):
                self._validate(index, self.entries[index], self._read(self.entries[index]))

    def _candidates(self, indices: Sequence[int], lines: Sequence[Line | None], scalar: list[int]) -> list[int]:
        """Return the records to try on the fast path, without duplicates; add the others to *scalar*."""
        candidates: list[int] = []
        for index, line in zip(indices, lines, strict=True):
            if line is not None and not line.base64 and not line.client_id:
                candidates.append(index)
                continue
            entry = self.entries[index]
            if line is None or line.base64 or not has_headers(line):
                arrival = self._read(entry)
                if not (arrival.client_id and self._is_duplicate(arrival.id, entry, arrival.received)):
                    scalar.append(index)
                    continue
            elif not self._is_duplicate(line.id, entry, line.received):
                candidates.append(index)
                continue
            self._count_repeat(self._read(entry))
        return candidates

    def _read(self, entry: Entry) -> Arrival:
        return read_record(entry, self.rules.envelope, self.rules.headers)

    def _count_repeat(self, arrival: Arrival) -> None:
        event = self.rules.validate(arrival).event
        self.repeated[event.name if event else ""] += 1

    def _validate(self, index: int, entry: Entry, arrival: Arrival) -> None:
        verdict = self.rules.validate(arrival)
        if verdict.row is not None and verdict.event is not None:
            self._put(verdict.event.table, index, entry, verdict.row)
        else:
            self._put(QUARANTINE_TABLE, index, entry, self._quarantine_row(entry, arrival, verdict))

    def _is_duplicate(self, event_id: str, entry: Entry, received: int) -> bool:
        """Return whether another record within the window carries the id.

        The window reaches both ways: a batch that is read again after a crash meets ids from its own end.
        """
        first = self.first.get(event_id) or self.seen(event_id)
        if first is None or abs(received - first[2]) > self.window_ms:
            self.first[event_id] = (entry.partition, entry.offset, received)
            return False
        return first[:2] != (entry.partition, entry.offset)

    def _put(self, table: str, index: int, entry: Entry, row: Row) -> None:
        if entry.offset < self.positions.get(table, {}).get(entry.partition, 0):
            self.committed += 1
        else:
            self.rows.setdefault(table, []).append((index, row))

    @cached_property
    def _lowest(self) -> dict[int, int]:
        """Partition -> the lowest offset of this batch; rarely is any of it already committed."""
        partitions = set(map(_partition_of, self.entries))
        if len(partitions) == 1:
            return {partition: min(map(_offset_of, self.entries)) for partition in partitions}
        lowest: dict[int, int] = {}
        for entry in self.entries:
            lowest[entry.partition] = min(entry.offset, lowest.get(entry.partition, entry.offset))
        return lowest

    def _put_part(self, part: Part) -> None:
        position = self.positions.get(part.table, {})
        if position and any(offset < position.get(partition, 0) for partition, offset in self._lowest.items()):
            entries = (self.entries[index] for index in part.indices)
            is_new = [entry.offset >= position.get(entry.partition, 0) for entry in entries]
            if not all(is_new):
                self.committed += is_new.count(False)
                part = Part(part.table, list(compress(part.indices, is_new)), part.rows.filter(pa.array(is_new)))
        if part.indices:
            self.parts.append(part)

    def add_gap(self, index: int, gap: Gap) -> None:
        """Report a loss in the log as one quarantine row."""
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
        self._put(QUARANTINE_TABLE, index, Entry(gap.partition, gap.until - 1, b"", received), row)

    def _quarantine_row(self, entry: Entry, arrival: Arrival, verdict: Verdict) -> Row:
        assert verdict.reject is not None
        return {
            "event_id": arrival.id,
            "event_type": verdict.claimed,
            "received_time": arrival.received * 1000,
            "reason": verdict.reject.reason.value,
            "field": verdict.reject.field or None,
            "detail": verdict.reject.detail or None,
            "raw_event": arrival.raw.decode("utf-8", "backslashreplace"),
            "record": entry.value,
            "log_partition": entry.partition,
            "log_offset": entry.offset,
            "plan_version": self.rules.plan.version,
        }

    def finish(self) -> Shaped:
        """Build the tables."""
        for name, rows in self.rows.items():
            rows.sort(key=itemgetter(0))
            self.parts.append(Part(name, [index for index, _ in rows], table_of_rows(self.rules.schema(name), rows)))
        tables = join_parts(self.parts)
        seen = tuple((event_id, *occurrence) for event_id, occurrence in self.first.items())
        return Shaped(tables, self.repeated.total(), self.committed, seen, self.repeated)
