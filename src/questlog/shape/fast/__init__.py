"""The fast path: many records at once, decoded into typed objects and then into whole columns.

The scalar path (`fields.py`) defines what is right. The fast path takes only events that it is certain to turn into
the same row, and returns the others.
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
    NeedsScalarPath,
    clock_skews,
    constant,
    event_times,
    header_columns,
    malformed_events,
    microseconds,
    sent_times,
    texts,
)
from questlog.shape.fast.decoders import EventDecoder, event_decoder, tagged_decoder, type_decoder
from questlog.shape.fast.lenient import LenientDecoders, unknown_members
from questlog.shape.fields import Rules

_CHUNK = 512
"""Events decoded in one call; if one of them does not fit, all of them are decoded singly."""
_NAMES_KEPT = 10_000

_headers_of, _event_of = attrgetter("headers"), attrgetter("event")
_id_of, _received_of, _sent_of = attrgetter("id"), attrgetter("received"), attrgetter("sent")


class FastPath:
    """The decoders and column builders of one plan."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        decoders = {name: event_decoder(rules, rule) for name, rule in rules.events.items()}
        self.decoders: dict[str, EventDecoder] = {name: d for name, d in decoders.items() if d is not None}
        self.tagged = tagged_decoder(rules, self.decoders)
        self.type_decoder = type_decoder(rules) if self.tagged is None else None
        self._type_names: dict[Any, str] = {}

    @cached_property
    def lenient(self) -> LenientDecoders:
        """The second try, for events with members that the plan does not declare."""
        return LenientDecoders(self.rules, self.decoders, self.tagged)

    def rows(self, indices: Sequence[int], lines: Sequence[Line]) -> tuple[list[Part], list[int]]:
        """Return the rows of *lines* and the indices of those left to the scalar path. *indices* must rise.

        1 headers and bytes  2 typed decoding, by event type  3 the columns all types share  4 each type's own columns
        """
        if not lines:
            return [], []
        events = _Events(lines, self.rules.headers)
        bodies: list[Any] = [None] * len(lines)
        groups = self._groups(events, bodies, events.malformed(check_depth=bool(self.rules.envelope.fields)))
        shared = self._shared(events, bodies, groups)
        parts: list[Part] = []
        start = 0
        for name, group in groups.items():
            if group:
                columns = {key: column.slice(start, len(group)) for key, column in shared.items()}
                start += len(group)
                kept, rows = self._table(self.decoders[name], group, bodies, columns, events.rescued)
                if kept:
                    parts.append(Part(self.decoders[name].event.table, [indices[place] for place in kept], rows))
        if sum(len(part.indices) for part in parts) == len(lines):
            return parts, []
        shaped = set(chain.from_iterable(part.indices for part in parts))
        return parts, [index for index in indices if index not in shaped]

    def _groups(self, events: _Events, bodies: list[Any], malformed: set[int]) -> dict[str, list[int]]:
        """Put decoded events into *bodies*; return event type -> the events that fit it."""
        groups: dict[str, list[int]] = {name: [] for name in self.decoders}
        undecoded: list[int] = []
        if self.tagged is not None:
            bodies[:] = events.decode(self.tagged.decoder)
            of_class = {type_: groups[name] for name, type_ in self.tagged.classes.items()}
            for index, body in enumerate(bodies):
                of_class.get(type(body), undecoded).append(index)
            if undecoded:
                self._retry(events, bodies, groups, self.lenient.tagged(undecoded, events.decode))
        elif self.type_decoder is not None:
            for index, name in enumerate(self._types(events.decode(self.type_decoder.decoder))):
                groups.get(name, undecoded).append(index)
            for name, group in groups.items():
                decoded = list(zip(group, events.decode(self.decoders[name].decoder, group), strict=True))
                for index, body in decoded:
                    bodies[index] = body
                failed = [index for index, body in decoded if body is None]
                if failed:
                    group[:] = [index for index, body in decoded if body is not None]
                    self._retry(events, bodies, groups, self.lenient.named(name, failed, events.decode))
        if malformed:
            for group in groups.values():
                group[:] = [index for index in group if index not in malformed]
        return groups

    def _retry(
        self,
        events: _Events,
        bodies: list[Any],
        groups: dict[str, list[int]],
        decoded: Iterable[tuple[int, str, Any]],
    ) -> None:
        """Add events whose only flaw is undeclared members, and keep those members in `_rescued`."""
        changed = set()
        for index, name, body in decoded:
            text = unknown_members(self.rules.envelope, self.decoders[name], bytes(events.raws[index]))
            if text is not None:
                bodies[index], events.rescued[index] = body, text
                groups[name].append(index)
                changed.add(name)
        for name in changed:
            groups[name].sort()

    def _types(self, heads: Iterable[Any]) -> Iterator[str]:
        """Yield the event type of each head, "" for none."""
        assert self.type_decoder is not None
        for head in heads:
            key = None if head is None else self.type_decoder.key(head)
            if key not in self._type_names:
                if len(self._type_names) >= _NAMES_KEPT:  # a sender makes names up
                    self._type_names.clear()
                values = {} if head is None else self.type_decoder.values(head)
                event = self.rules.find(values.get, values.get(self.rules.envelope.event_type))
                self._type_names[key] = "" if head is None or isinstance(event, Reject) else event.name
            yield self._type_names[key]

    def _shared(self, events: _Events, bodies: list[Any], groups: dict[str, list[int]]) -> dict[str, pa.Array]:
        """Return the columns that all types share, group after group; drop events that need the scalar path."""
        while True:
            order = list(chain.from_iterable(groups.values()))
            if not order:
                return {}
            try:
                envelope = next(iter(self.decoders.values())).envelope  # the same for each
                ordered = [bodies[index] for index in order]
                columns = {each.name: each.build(list(map(each.get, ordered))) for each in envelope}
                break
            except NeedsScalarPath as error:
                bad = {order[position] for position in error.positions}
                for group in groups.values():
                    group[:] = [index for index in group if index not in bad]
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
        shared: dict[str, pa.Array],
        rescued: Mapping[int, str],
    ) -> tuple[list[int], pa.Table | None]:
        """Return the indices of one event type that have a row, and those rows in the columns of its table."""
        while indices:
            mine = [bodies[index] for index in indices]
            try:
                fields = {each.name: each.build(list(map(each.get, mine))) for each in decoder.columns}
            except NeedsScalarPath as error:
                bad = set(error.positions)
                is_good = pa.array([position not in bad for position in range(len(indices))])
                shared = {name: column.filter(is_good) for name, column in shared.items()}
                indices = [index for position, index in enumerate(indices) if position not in bad]
                continue
            except (pa.ArrowException, ValueError, TypeError, OverflowError):
                break  # the scalar path never raises
            schema, count = self.rules.schema(decoder.event.table), len(indices)
            columns = fields | shared
            columns["event_type"] = constant(decoder.event.name, count)
            columns["plan_version"] = constant(self.rules.plan.version, count)
            if rescued:
                columns["_rescued"] = pa.array([rescued.get(index) for index in indices], pa.string())
            arrays = [
                columns[name] if name in columns else pa.nulls(count, type_)
                for name, type_ in zip(schema.names, schema.types, strict=True)
            ]
            return indices, pa.Table.from_arrays(arrays, schema=schema)
        return [], None


class _Events:
    """The events of some lines: their bytes, and what the server added to them."""

    def __init__(self, lines: Sequence[Line], headers: Mapping[str, str]) -> None:
        self.lines, self.headers = lines, headers
        self.raws: list[msgspec.Raw] = list(map(_event_of, lines))
        self.header_sets = _HeaderSets(headers)
        self.codes = list(map(self.header_sets.__getitem__, map(bytes, map(_headers_of, lines))))
        self.texts = texts(self.raws)
        self.sent: list[int | None] = list(map(_sent_of, lines))
        self.rescued: dict[int, str] = {}

    def malformed(self, *, check_depth: bool) -> set[int]:
        """Return the indices of events that are not UTF-8, are nested deeply or have unreadable headers."""
        indices = malformed_events(self.raws, self.texts, check_depth=check_depth)
        if self.header_sets.unreadable:
            indices |= {index for index, code in enumerate(self.codes) if code in self.header_sets.unreadable}
        return indices

    def decode(self, decoder: msgspec.json.Decoder[Any], indices: Sequence[int] | None = None) -> list[Any]:
        """Return events decoded, None for one that does not fit."""
        raws = self.raws if indices is None else [self.raws[index] for index in indices]
        bodies: list[Any] = []
        for start in range(0, len(raws), _CHUNK):
            bodies += _decoded(decoder, raws[start : start + _CHUNK])
        return bodies

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns that the server fills, and the events as they were sent."""
        return {
            **header_columns(self.header_sets.columns, self.codes, self.headers.values()),
            "event_id": pa.array(list(map(_id_of, self.lines)), pa.string()),
            "received_time": microseconds(list(map(_received_of, self.lines))),
            "raw_event": self.texts,
        }


class _HeaderSets(dict[bytes, int]):
    """Numbers the distinct sets of headers, by their bytes; `columns` holds the column values of each."""

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
    """Return events decoded: in one call if all of them fit, otherwise singly."""
    try:
        bodies = decoder.decode_lines(b"\n".join(raws))
        if len(bodies) == len(raws):
            return bodies
    except NOT_A_RECORD:
        pass
    return list(_each(decoder.decode, raws))


def read_lines(values: Iterable[bytes]) -> list[Line | None]:
    """Return each record, or None for bytes that are not one."""
    return _each(decode_line, values)


def has_headers(line: Line) -> bool:
    """Return whether a record's headers can be read; otherwise it is not a record."""
    try:
        decode_headers(line.headers)
    except NOT_A_RECORD:
        return False
    return True


def _each(decode: Any, values: Iterable[Any]) -> list[Any]:
    """Return every value decoded, or None if it cannot be. No Python code runs between two good ones."""
    decoded: list[Any] = []
    remaining = iter(values)
    while True:
        try:
            decoded.extend(map(decode, remaining))
        except NOT_A_RECORD:
            decoded.append(None)
        else:
            return decoded
