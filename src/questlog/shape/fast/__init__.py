"""Many records at once: typed decoding, then whole columns. Whatever is unusual is left to the careful path.

The careful path (fields.py) says what is right. This one only takes events of which it is certain that the
careful path would make the same row, and gives back the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa

from questlog.errors import Reject
from questlog.record import NOT_A_RECORD, Line, decode_headers, decode_line
from questlog.shape.columns import Part
from questlog.shape.fast.columns import (
    Unusual,
    clock_skews,
    constant,
    event_times,
    header_columns,
    microseconds,
    odd_events,
    sent_times,
    texts,
)
from questlog.shape.fast.decoders import EventDecoder, event_decoder, head_of, tagged_of
from questlog.shape.fast.loose import Loose, left_over
from questlog.shape.fields import Rules

_CHUNK = 512
"""Events decoded in one call; one bad event sends so many through single calls."""
_NAMES_KEPT = 10_000

_headers_of, _event_of = attrgetter("headers"), attrgetter("event")
_id_of, _received_of, _sent_of = attrgetter("id"), attrgetter("received"), attrgetter("sent")


class Fast:
    """What a plan makes of usual events."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        decoders = {name: event_decoder(rules, rule) for name, rule in rules.events.items()}
        self.decoders: dict[str, EventDecoder] = {name: d for name, d in decoders.items() if d is not None}
        self.tagged = tagged_of(rules, self.decoders)
        self.head = head_of(rules) if self.tagged is None else None
        self._found: dict[Any, str] = {}

    @cached_property
    def loose(self) -> Loose:
        """The second try, for events with members that the plan does not know."""
        return Loose(self.rules, self.decoders, self.tagged)

    def rows(self, places: Sequence[int], lines: Sequence[Line]) -> tuple[list[Part], list[int]]:
        """Return the rows of *lines*, whose places in the batch rise, and the places of what it leaves alone.

        1 headers and bytes  2 typed decoding, by event type  3 the columns of all types  4 those of each.
        """
        if not lines:
            return [], []
        events = _Events(lines, self.rules.headers)
        bodies: list[Any] = [None] * len(lines)
        groups = self._groups(events, bodies, events.odd(check_depth=bool(self.rules.envelope.fields)))
        shared = self._shared(events, bodies, groups)
        parts: list[Part] = []
        start = 0
        for name, indices in groups.items():
            if indices:
                columns = {key: column.slice(start, len(indices)) for key, column in shared.items()}
                start += len(indices)
                kept, rows = self._table(self.decoders[name], indices, bodies, columns, events.rescued)
                if kept:
                    parts.append(Part(self.decoders[name].event.table, [places[index] for index in kept], rows))
        if sum(len(part.places) for part in parts) == len(lines):
            return parts, []
        taken = set(chain.from_iterable(part.places for part in parts))
        return parts, [place for place in places if place not in taken]

    def _groups(self, events: _Events, bodies: list[Any], odd: set[int]) -> dict[str, list[int]]:
        """Put decoded events into *bodies* and return each type's indices, without what does not fit it."""
        groups: dict[str, list[int]] = {name: [] for name in self.decoders}
        nobody: list[int] = []
        if self.tagged is not None:
            bodies[:] = events.decode(self.tagged.decoder)
            of_class = {type_: groups[name] for name, type_ in self.tagged.classes.items()}
            for index, body in enumerate(bodies):
                of_class.get(type(body), nobody).append(index)
            if nobody:
                self._again(events, bodies, groups, self.loose.tagged(nobody, events.decode))
        elif self.head is not None:
            for index, name in enumerate(self._named(events.decode(self.head.decoder))):
                groups.get(name, nobody).append(index)
            for name, indices in groups.items():
                found = events.decode(self.decoders[name].decoder, indices)
                for index, body in zip(indices, found, strict=True):
                    bodies[index] = body
                failed = [index for index, body in zip(indices, found, strict=True) if body is None]
                if failed:
                    indices[:] = [index for index, body in zip(indices, found, strict=True) if body is not None]
                    self._again(events, bodies, groups, self.loose.named(name, failed, events.decode))
        if odd:
            for indices in groups.values():
                indices[:] = [index for index in indices if index not in odd]
        return groups

    def _again(
        self, events: _Events, bodies: list[Any], groups: dict[str, list[int]], found: Iterable[tuple[int, str, Any]]
    ) -> None:
        """Take in events whose only fault are members that the plan does not know; note those as left over."""
        changed = set()
        for index, name, body in found:
            text = left_over(self.rules.envelope, self.decoders[name], bytes(events.raws[index]))
            if text is not None:
                bodies[index], events.rescued[index] = body, text
                groups[name].append(index)
                changed.add(name)
        for name in changed:
            groups[name].sort()

    def _named(self, heads: Iterable[Any]) -> Iterator[str]:
        """Yield the event type that each head means, "" for none."""
        assert self.head is not None
        for head in heads:
            key = None if head is None else self.head.key(head)
            if key not in self._found:
                if len(self._found) >= _NAMES_KEPT:  # somebody makes names up
                    self._found.clear()
                values = {} if head is None else self.head.values(head)
                found = self.rules.find(values.get, values.get(self.rules.envelope.event_type))
                self._found[key] = "" if head is None or isinstance(found, Reject) else found.name
            yield self._found[key]

    def _shared(self, events: _Events, bodies: list[Any], groups: dict[str, list[int]]) -> dict[str, pa.Array]:
        """Return the columns that every type has, one type's rows after another's; drop what is unusual there."""
        while True:
            order = list(chain.from_iterable(groups.values()))
            if not order:
                return {}
            try:
                usual = next(iter(self.decoders.values())).envelope  # the same for each
                ordered = [bodies[index] for index in order]
                columns = {each.name: each.build(list(map(each.get, ordered))) for each in usual}
                break
            except Unusual as error:
                bad = {order[position] for position in error.positions}
                for indices in groups.values():
                    indices[:] = [index for index in indices if index not in bad]
        arrived = events.columns()
        if order != list(range(len(events.lines))):
            positions = pa.array(order, pa.int32())
            arrived = {name: column.take(positions) for name, column in arrived.items()}
        received = arrived["received_time"]
        columns["sent_time"] = sent = sent_times(columns["sent_time"], [events.sent[index] for index in order])
        columns["event_time"] = event_times(columns["device_time"], sent, received)
        columns["clock_skew_ms"] = clock_skews(sent, received)
        return columns | arrived

    def _table(
        self,
        decoder: EventDecoder,
        indices: list[int],
        bodies: list[Any],
        columns: dict[str, pa.Array],
        rescued: Mapping[int, str],
    ) -> tuple[list[int], pa.Table | None]:
        """Return the rows of one event type in the columns of its table, and the indices that have one."""
        while indices:
            mine = [bodies[index] for index in indices]
            try:
                own = {each.name: each.build(list(map(each.get, mine))) for each in decoder.columns}
            except Unusual as error:
                bad = set(error.positions)
                kept = pa.array([position not in bad for position in range(len(indices))])
                columns = {name: column.filter(kept) for name, column in columns.items()}
                indices = [index for position, index in enumerate(indices) if position not in bad]
                continue
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                break  # the careful path never raises
            schema, count = self.rules.schema(decoder.event.table), len(indices)
            found = own | columns
            found["event_type"] = constant(decoder.event.name, count)
            found["plan_version"] = constant(self.rules.plan.version, count)
            if rescued:
                found["_rescued"] = pa.array([rescued.get(index) for index in indices], pa.string())
            arrays = [
                found[name] if name in found else pa.nulls(count, type_)
                for name, type_ in zip(schema.names, schema.types, strict=True)
            ]
            return indices, pa.Table.from_arrays(arrays, schema=schema)
        return [], None


class _Events:
    """The events of some lines, their bytes one after another, and what the server added to them."""

    def __init__(self, lines: Sequence[Line], headers: Mapping[str, str]) -> None:
        self.lines, self.headers = lines, headers
        self.raws: list[msgspec.Raw] = list(map(_event_of, lines))
        self.kept = _Headers(headers)
        self.codes = list(map(self.kept.__getitem__, map(bytes, map(_headers_of, lines))))
        self.texts = texts(self.raws)
        self.sent: list[int | None] = list(map(_sent_of, lines))
        self.rescued: dict[int, str] = {}

    def odd(self, *, check_depth: bool) -> set[int]:
        """Return the indices of events that are not UTF-8, nest deep, or have unreadable headers."""
        found = odd_events(self.raws, self.texts, check_depth=check_depth)
        if self.kept.unreadable:
            found |= {index for index, code in enumerate(self.codes) if code in self.kept.unreadable}
        return found

    def decode(self, decoder: msgspec.json.Decoder[Any], indices: Sequence[int] | None = None) -> list[Any]:
        """Return events decoded, None for one that does not fit."""
        raws = self.raws if indices is None else [self.raws[index] for index in indices]
        found: list[Any] = []
        for start in range(0, len(raws), _CHUNK):
            found += _decoded(decoder, raws[start : start + _CHUNK])
        return found

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns of what the server added, and of the events as they were sent."""
        return {
            **header_columns(self.kept.columns, self.codes, self.headers.values()),
            "event_id": pa.array(list(map(_id_of, self.lines)), pa.string()),
            "received_time": microseconds(list(map(_received_of, self.lines))),
            "raw_event": self.texts,
        }


class _Headers(dict[bytes, int]):
    """A record's headers as they were sent -> their number; `columns` holds what each of them fills."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.columns: list[Mapping[str, str]] = []
        self.unreadable: set[int] = set()

    def __missing__(self, raw: bytes) -> int:
        number = self[raw] = len(self.columns)
        try:
            sent = decode_headers(raw)
        except NOT_A_RECORD:
            sent = {}
            self.unreadable.add(number)
        lower = {name: name.lower() for name in sent}
        self.columns.append({self.headers[lower[name]]: sent[name] for name in sent if lower[name] in self.headers})
        return number


def _decoded(decoder: msgspec.json.Decoder[Any], raws: Sequence[msgspec.Raw]) -> list[Any]:
    """Return some events decoded, all in one call if they all fit; each is a whole JSON value by itself."""
    try:
        found = decoder.decode_lines(b"\n".join(raws))
        if len(found) == len(raws):
            return found
    except NOT_A_RECORD:
        pass
    return list(_each(decoder.decode, raws))


def read_lines(values: Iterable[bytes]) -> list[Line | None]:
    """Return each record, or None for what is none."""
    return _each(decode_line, values)


def has_headers(line: Line) -> bool:
    """Return whether a record's headers can be read: without, it is none."""
    try:
        decode_headers(line.headers)
    except NOT_A_RECORD:
        return False
    return True


def _each(decode: Any, values: Iterable[Any]) -> list[Any]:
    """Return every value decoded, None for one that cannot be; no Python runs between two good ones."""
    found: list[Any] = []
    left = iter(values)
    while True:
        try:
            found.extend(map(decode, left))
        except NOT_A_RECORD:
            found.append(None)
        else:
            return found
