"""Many records at once: typed decoding, then whole columns. Whatever is unusual is left to the careful path.

The careful path (fields.py) says what is right. This one only takes events of which it is certain that the
careful path would make the same row, and gives back the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from questlog.errors import Reject
from questlog.record import NOT_A_RECORD, Line, decode_headers, decode_line
from questlog.shape.columns import Part
from questlog.shape.fast.columns import Unusual, constant, event_times, header_columns, microseconds, raw_events
from questlog.shape.fast.decoders import EventDecoder, Head, Tagged, event_decoder, head_of, tagged_of
from questlog.shape.fields import Rules

CHUNK = 1_024
"""Events decoded in one call; one bad event sends so many through single calls."""

_headers_of, _event_of = attrgetter("headers"), attrgetter("event")
_id_of, _received_of = attrgetter("id"), attrgetter("received")


class Fast:
    """What a plan makes of usual events."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        decoders = {name: event_decoder(rules, rule) for name, rule in rules.events.items()}
        self.decoders: dict[str, EventDecoder] = {name: d for name, d in decoders.items() if d is not None}
        self.tagged: Tagged | None = tagged_of(rules, self.decoders)
        self.head: Head | None = head_of(rules) if self.tagged is None else None
        self._found: dict[Any, str] = {}

    def rows(self, places: Sequence[int], lines: Sequence[Line]) -> tuple[list[Part], list[int]]:
        """Return the rows of *lines*, one part per event type, and the places of what it leaves alone.

        1 headers  2 which type  3 typed decoding  4 columns.
        """
        seen = _Headers(self.rules.headers)
        codes = list(map(seen.__getitem__, map(bytes, map(_headers_of, lines))))
        groups, left = self._groups(lines)
        parts = []
        if seen.odd:
            groups = {name: _without(group, codes, seen.odd, left) for name, group in groups.items()}
        for name, group in groups.items():
            if group.bodies:
                part, bad = self._part(name, group, lines, codes, seen, places)
                parts += part
                left += bad
        return parts, [places[index] for index in left]

    def _groups(self, lines: Sequence[Line]) -> tuple[dict[str, _Group], list[int]]:
        """Return the decoded events of each type, and the indices of those that are not as the plan says."""
        groups = {name: _Group() for name in self.decoders}
        left: list[int] = []
        raws = list(map(_event_of, lines))
        if self.tagged is not None:
            of_class = {type_: groups[name] for name, type_ in self.tagged.classes.items()}
            for index, body in enumerate(decode_each(self.tagged.many, self.tagged.one, raws)):
                group = of_class.get(type(body))
                if group is None:
                    left.append(index)
                else:
                    group.indices.append(index)
                    group.bodies.append(body)
        elif self.head is not None:
            chosen = self._named(decode_each(self.head.many, self.head.one, raws))
            for index, name in enumerate(chosen):
                if name in groups:
                    groups[name].indices.append(index)
                else:
                    left.append(index)
            for name, group in groups.items():
                decoder = self.decoders[name]
                bodies = decode_each(decoder.many, decoder.one, [raws[index] for index in group.indices])
                left += [index for index, body in zip(group.indices, bodies, strict=True) if body is None]
                group.indices = list(compress(group.indices, map(_is_there, bodies)))
                group.bodies = list(filter(_is_there, bodies))
        else:
            left = list(range(len(lines)))
        return groups, left

    def _named(self, heads: Iterable[Any]) -> Iterable[str]:
        """Yield the event type that each head means, "" for none."""
        assert self.head is not None
        for head in heads:
            key = None if head is None else self.head.key(head)
            if key not in self._found:
                if len(self._found) > 10_000:  # a sender makes names up
                    self._found.clear()
                values = self.head.values(head) if head is not None else {}
                found = self.rules.find(values.get, values.get(self.rules.envelope.event_type))
                self._found[key] = "" if head is None or isinstance(found, Reject) else found.name
            yield self._found[key]

    def _part(
        self, name: str, group: _Group, lines: Sequence[Line], codes: list[int], seen: _Headers, places: Sequence[int]
    ) -> tuple[list[Part], list[int]]:
        """Build the columns of one event type; leave out, and try again, what a column finds unusual."""
        decoder = self.decoders[name]
        left: list[int] = []
        indices, bodies = group.indices, group.bodies
        while indices:
            of_group = [lines[index] for index in indices]
            try:
                rows = self._table(decoder, bodies, of_group, [codes[index] for index in indices], seen)
            except Unusual as error:
                bad = set(error.positions)
                left += [index for position, index in enumerate(indices) if position in bad]
                bodies = [body for position, body in enumerate(bodies) if position not in bad]
                indices = [index for position, index in enumerate(indices) if position not in bad]
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                return [], left + indices  # the careful path never raises
            else:
                return [Part(decoder.event.table, [places[index] for index in indices], rows)], left
        return [], left

    def _table(
        self, decoder: EventDecoder, bodies: list[Any], lines: list[Line], codes: list[int], seen: _Headers
    ) -> pa.Table:
        """Return the rows of one event type, in the columns of its table."""
        schema, count = self.rules.schema(decoder.event.table), len(bodies)
        received = microseconds(list(map(_received_of, lines)))
        columns: dict[str, pa.Array] = {each.name: each.build(list(map(each.get, bodies))) for each in decoder.columns}
        columns["event_time"] = event_times(columns["event_time"], received)
        columns |= header_columns(seen.kept, codes, self.rules.headers.values())
        columns |= {
            "event_id": pa.array(list(map(_id_of, lines)), pa.string()),
            "event_type": constant(decoder.event.name, count),
            "received_time": received,
            "raw_event": raw_events(list(map(_event_of, lines)), check_depth=decoder.check_depth),
            "plan_version": constant(self.rules.plan.version, count),
        }
        arrays = [
            columns[name] if name in columns else pa.nulls(count, type_)
            for name, type_ in zip(schema.names, schema.types, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)


@dataclass(slots=True)
class _Group:
    """Events of one type: their indices among the lines and their decoded bodies."""

    indices: list[int]
    bodies: list[Any]

    def __init__(self) -> None:
        self.indices, self.bodies = [], []


class _Headers(dict[bytes, int]):
    """A record's headers as sent -> their number; `kept` holds the columns of each, `odd` the unreadable ones."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = columns
        self.kept: list[Mapping[str, str]] = []
        self.odd: set[int] = set()

    def __missing__(self, raw: bytes) -> int:
        number = self[raw] = len(self.kept)
        try:
            headers = decode_headers(raw)
        except NOT_A_RECORD:
            headers = {}
            self.odd.add(number)
        self.kept.append(
            {self.columns[name.lower()]: text for name, text in headers.items() if name.lower() in self.columns}
        )
        return number


def _without(group: _Group, codes: Sequence[int], odd: set[int], left: list[int]) -> _Group:
    """Return the group without the lines whose headers cannot be read; those are added to *left*."""
    kept = _Group()
    for index, body in zip(group.indices, group.bodies, strict=True):
        if codes[index] in odd:
            left.append(index)
        else:
            kept.indices.append(index)
            kept.bodies.append(body)
    return kept


def _is_there(body: Any) -> bool:
    return body is not None


def read_lines(values: Iterable[bytes]) -> list[Line | None]:
    """Return each record, or None for what is none or holds its event in another way than as JSON."""
    lines: list[Line | None] = []
    left = iter(values)
    while True:
        try:
            lines.extend(map(decode_line, left))
        except NOT_A_RECORD:
            lines.append(None)
        else:
            break
    return [None if line is None or line.base64 or not line.event else line for line in lines]


def decode_each(many: msgspec.json.Decoder[Any], one: msgspec.json.Decoder[Any], raws: Sequence[Any]) -> list[Any]:
    """Return each value decoded, None for one that does not fit. *raws* are whole JSON values."""
    found: list[Any] = []
    for start in range(0, len(raws), CHUNK):
        chunk = raws[start : start + CHUNK]
        try:
            found += many.decode(b"[" + b",".join(chunk) + b"]")
        except NOT_A_RECORD:
            left = iter(chunk)
            while True:
                try:
                    found.extend(map(one.decode, left))
                except NOT_A_RECORD:
                    found.append(None)
                else:
                    break
    return found
