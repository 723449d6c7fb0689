"""Strategies for any plan and any log: good, odd and hostile events, and records of other programs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
from hypothesis import strategies as st

from questlog.log import Entry, Gap
from questlog.plan import Envelope, Event, Field, Plan, Type
from questlog.record import encode_record
from questlog.shape import Shaped
from support.type_samples import SAMPLES

NOW_MS = 1_790_000_000_000

# -- plans ----------------------------------------------------------------------------------------

NAMES = ("word", "kind", "small", "big", "price", "day", "at", "bag", "host", "a", "b")
_SCALARS = tuple(SAMPLES)
_DECIMALS = (Type("decimal", 12, 2), Type("decimal", 38, 4), Type("decimal", 3, 3), Type("decimal", 15, 0))
ENVELOPES = (
    Envelope(),
    Envelope(event_type="name", event_time="ts", fields="data"),
    Envelope(event_type="meta.type", event_id="meta.id", player_id="meta.player", sequence="data.n", fields="data"),
    Envelope(event_type="event_name", player_id="word", session_id="a"),
)


@st.composite
def types(draw: st.DrawFn, depth: int = 2) -> Type:
    """Return any field type, nested ones too."""
    kinds = [*_SCALARS, *_SCALARS, "decimal"] + (["list", "map", "struct"] if depth else [])
    kind = draw(st.sampled_from(kinds))
    if kind == "decimal":
        return draw(st.sampled_from(_DECIMALS))
    if kind in ("list", "map"):
        return Type(kind, item=draw(types(depth - 1)))
    if kind == "struct":
        members = draw(st.lists(st.sampled_from(("x", "y", "z")), min_size=1, max_size=3, unique=True))
        return Type("struct", fields=tuple((name, draw(types(depth - 1))) for name in members))
    return Type(kind)


_BOUNDS: Mapping[str, tuple[Any, ...]] = {
    "int": (0, -5, 100, 2.5),
    "long": (0, 2**40, -(2**63), 1e18),
    "float": (0, 0.5, -1e3),
    "double": (0, 0.1, -0.0, 1e300),
    "decimal": (0, 0.5, -1.25, 99),
    "timestamp": ("2020-01-01T00:00:00Z", 0),
    "date": ("2020-01-01",),
}
_ENUMS: Mapping[str, tuple[tuple[Any, ...], ...]] = {
    "string": (("a", "b"), ("left", "right", "")),
    "int": ((1, 2, 3), (1.0, 4)),
    "long": ((1, 2**40),),
    "double": ((0.5, 1),),
    "bool": ((True,),),
}
_DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "string": ("a", ""), "bool": (False, True), "int": (0, 7), "long": (0,), "float": (0.5,), "double": (0, 1.5),
    "decimal": (0,), "timestamp": ("2026-01-01T00:00:00Z",), "date": ("2026-01-01",),
}  # fmt: skip


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    """Return a declared field with any of its options."""
    type_ = draw(types())
    kind, rarely = type_.kind, st.sampled_from((False, False, True))
    options: dict[str, Any] = {"required": draw(rarely)}
    for option, choices in (("min", _BOUNDS), ("max", _BOUNDS), ("enum", _ENUMS), ("default", _DEFAULTS)):
        if kind in choices and draw(rarely):
            options[option] = draw(st.sampled_from(choices[kind]))
    if kind in ("string", "list", "map") and draw(rarely):
        options["max_length"] = draw(st.sampled_from((0, 1, 5)))
    if kind == "string" and draw(rarely):
        options["pattern"] = draw(st.sampled_from(("^[a-z]+$", "e", "^$", r"\d")))
    if draw(rarely):
        options["aliases"] = draw(st.sampled_from((("old",), ("older", "old"), ("b",))))
    return Field(name, type_, **options)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Return any plan: event types with their own or a shared table, recognized by name or by a match."""
    envelope = draw(st.sampled_from(ENVELOPES))
    events: dict[str, Event] = {}
    types_of: dict[tuple[str, str], Field] = {}
    for name in draw(st.lists(st.sampled_from(("buy", "watch", "join")), min_size=1, max_size=3, unique=True)):
        table = draw(st.sampled_from((name, "shared")))
        declared = []
        for field_name in draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True)):
            field = types_of.setdefault((table, field_name), draw(fields(field_name)))  # a shared column has one type
            declared.append(field)
        prefix = envelope.fields + "." if envelope.fields else ""
        match = draw(
            st.sampled_from(
                ((), (), ((envelope.event_type, "CUSTOM.1"),), ((envelope.event_type, "x"), (prefix + "custom", "y")),
                 (("flag", True),), (("n", 3),), (("n", 3.0), (envelope.event_type, name)))
            )
        )  # fmt: skip
        mode = draw(st.sampled_from(("quarantine", "observe", "reject")))
        events[name] = Event(name, table, mode, match=match, fields=tuple(declared))
    headers = draw(st.sampled_from(((), ("Host", "Accept", "User-Agent"), ("Host", "Event-Type"))))
    plan = Plan("any", "", headers, envelope, events)
    return replace(plan, version=hashlib.sha256(repr(plan).encode()).hexdigest()[:12])


# -- events ---------------------------------------------------------------------------------------

HOSTILE = tuple(
    [
        b"null", b"NaN", b"-Infinity", b"1e400", b"-1e400", b"1e-400", b"1e" + b"9" * 30, b"1" + b"0" * 400,
        b"1" + b"0" * 4400, b"-1" + b"0" * 4400, b"9223372036854775807",
        b"9223372036854775808", b"-9223372036854775809",
        b"18446744073709551616", b"9007199254740993", b"9007199254740993.0", b"-0", b"-0.0", b"0.0", b"3.0", b"3.5",
        b"3e0", b"-3e2", b"1E2", b"03", b"+3", b"0x10", b".5", b"5.", b"true", b"false", b'"3"', b'""', b'"a\\u0000b"',
        b'"a\x00b"', b'"\\ud800"', b'"\\ud83d\\ude00"', b'"\\u0061"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\xc0\xaf"',
        b'"a\nb"', b'"\\q"', b"{}", b"[]", b'{"a":1,"a":2}', b'{"x":1,"x":null}', b'{"x":"s","q":1}',
        b"[" * 63 + b"]" * 63, b"[" * 64 + b"]" * 64, b"[" * 200 + b"]" * 200, b'{"a":' * 70 + b"1" + b"}" * 70,
        b'"' + b"[" * 99 + b'"', b"[null]", b"[[1],[null]]", b'{"k":null}',
        b"1.005", b"0.1", b"0.30000000000000004", b"0.1000000000000000055511151231257827", b"1234567890.12",
        b"123456789012345.678", b"9999999999.994", b"-0.005", b"1e22", b"1e-7", b"0E-99", b'"1.5e1"', b'"12.50"',
        b'"1_000"', b'"sNaN"', b'" 1"', b"2.675", b"999999999999999", b"1000000000000000", b"0.1234", b"0.999",
        b"3.4028235e38", b"3.4028236e38", b"-3.4028235677973366e38", b"2147483647", b"2147483648", b"2147483648.0",
        b"9007199254740992.0", b"9007199254740994.0", b"1.0e3", b"1e18", b"1e19",
        b'"10000-01-01T00:00:00Z"', b'"0000-01-01"', b'"0000-01-01T00:00:00Z"', b'"0001-01-01T00:00:00+14:00"',
        b'"0001-01-01T00:00:00Z"', b'"9999-12-31T23:59:59-14:00"', b'"9999-12-31T23:59:59.999999Z"',
        b'"2016-12-31T23:59:60Z"', b'"2026-01-01T24:00:00Z"', b'"2026-02-30"', b'"2026-02-28"', b'"2026-W01-1"',
        b'"20260101"', b'"20260101T101010"', b'"2026-11-24T10:00:00.123456+05:30"', b'"2026-11-24 10:00:00.5"',
        b'"2026-11-24T10:00:00Z"', b'"2026-11-24T10:00:00z"', b'"2026-11-24T10:00:00.123Z"', b'"2026-11-24T10"',
        b'"2026-11-24t10:00:00.9999999Z"', b'"1969-12-31T23:59:59.9995Z"', b'"2026-11-24T10:00:00,5Z"',
        b'"2026-11-24T10:00:00+0530"', b'"2026-11-24T10:00:00+05"', b'"2026-11-24T10:00:00-00:00"',
        b'"2026-11-24T10:00:00+24:00"', b'"2026-11-24x10:00:00"', b'"2026-11-24T10:00:00.Z"', b'"2026-11-24 "',
        b'"2026-11-24T10:00:00+05:30:30"', b'"2026-11-24T10:00Z"', b'"2026-11-24T25:00:00Z"',
        '"２０２６-01-01"'.encode(), '"ſ漢🗡"'.encode(), b"-1", b"253402300799999", b"253402300800000", b"1.5", b"-0.5",
        b"-62135596800000", b"-62135596800001", b"1790000000000", b"1790000000000.0",
        b"1,", b"1} x", b"1 /* */", b"", b"'x'",
        b'"' + b"x" * 200 + b'"', b'"' + b"x" * 201 + b'"',
    ]
)  # fmt: skip
BROKEN = (b'"\xff"', b'"\xed\xa0\x80"', b"[" * 63 + b"]" * 63, b"[" * 64 + b"]" * 64, b'{"a":' * 70 + b"1" + b"}" * 70)
"""Not JSON, or nested too deep, wherever they are in an event."""


class Sender:
    """Sends events of a plan, mostly good ones, drawn from one seed so that any can be reproduced alone."""

    def __init__(self, plan: Plan, seed: int) -> None:
        self.plan, self.chance = plan, random.Random(seed)

    def value(self, type_: Type) -> bytes:
        """Return JSON that mostly fits a column of *type_*."""
        chance, kind = self.chance, type_.kind
        if kind == "list":
            assert type_.item is not None
            parts = [self.value(type_.item) if chance.random() < 0.9 else b"null" for _ in range(chance.randrange(4))]
            return b"[" + b",".join(parts) + b"]"
        if kind in ("map", "struct"):
            members = type_.fields or tuple((key, type_.item) for key in ("k", "l"))
            return _object([(name, self.value(item)) for name, item in members if item and chance.random() < 0.7])
        return self.scalar(type_)

    def scalar(self, type_: Type) -> bytes:
        """Return a text, number or truth value for *type_*."""
        chance, kind = self.chance, type_.kind
        if kind == "string":
            return to_json(chance.choice(("a", "b", "left", "we", "x9", "", "é🗡", 'q"\\', "long enough", "7")))
        if kind == "bool":
            return chance.choice((b"true", b"false"))
        if kind == "int":
            return to_json(chance.choice((chance.randrange(-10, 120), 2**31 - 1, -(2**31))))
        if kind == "long":
            return to_json(chance.choice((chance.randrange(9), chance.randrange(-(2**63), 2**63))))
        if kind in ("float", "double"):
            number = chance.choice((chance.uniform(-10, 10), chance.randrange(-3, 4), chance.uniform(-1, 1) * 1e308))
            return repr(number if kind == "double" or abs(number) < 1e30 else 1.1).encode()
        if kind == "decimal":
            whole = chance.randrange(-(10 ** chance.randrange(1, 18)), 10**17)
            digits = chance.randrange(type_.scale + 2)
            number = Decimal(whole).scaleb(-digits)
            texts = f"{number:f}", repr(float(number)), f"{number:E}", f'"{number:f}"', str(chance.uniform(-1, 1))
            return chance.choice(texts).encode()
        if kind not in ("date", "timestamp"):  # a type without a generator of its own
            return chance.choice((*SAMPLES[kind].fits, *SAMPLES[kind].misfits)).encode()
        moment = datetime(1960, 1, 1) + timedelta(microseconds=chance.randrange(10**16))
        if kind == "date":
            return to_json(moment.date().isoformat())
        texts = moment.isoformat() + "Z", moment.isoformat(), moment.isoformat(timespec="seconds") + "Z"
        return to_json(chance.choice((*texts, chance.randrange(2 * 10**12), moment.isoformat() + "+02:00")))

    def moment(self) -> bytes:
        """Return a time near now, so that clock correction applies."""
        return to_json(NOW_MS + self.chance.choice((0, 250, -4_000, 90_000, -3_000_000_000)))

    def event(self) -> bytes:
        """Return an event as sent: mostly one of the plan, sometimes an odd one, sometimes not JSON."""
        envelope, chance = self.plan.envelope, self.chance
        oddness = chance.choices((0, 1, 2, 9), (60, 25, 10, 5))[0]
        if oddness == 9:
            return chance.choice(HOSTILE)
        event = chance.choice(list(self.plan.events.values()))
        members = [(path, to_json(value)) for path, value in event.match if chance.random() < 0.8]
        if envelope.event_type not in [path for path, _ in members] or oddness:
            claimed = event.name if chance.random() < 0.8 else chance.choice(list(self.plan.events))
            members.insert(0, (envelope.event_type, to_json(claimed)))
        prefix = envelope.fields + "." if envelope.fields else ""
        for field in event.fields:
            if field.required or chance.random() < 0.6:
                listed = field.enum and chance.random() < 0.9
                value = to_json(chance.choice(field.enum)) if listed else self.value(field.type)
                old = field.aliases and chance.random() < 0.3  # a client older than the plan
                members.append((prefix + (chance.choice(field.aliases) if old else field.name), value))
        for path, value in (
            (envelope.event_time, self.scalar(Type("timestamp")) if chance.random() < 0.7 else self.moment()),
            (envelope.sent_time, self.moment()),
            (envelope.player_id, chance.choice((b'"ann"', b"17", b'""'))),
            (envelope.session_id, chance.choice((b'"s-1"', b"null"))),
            (envelope.sequence, to_json(chance.randrange(9))),
        ):
            if chance.random() < 0.5:
                members.append((path, value))
        for _ in range(oddness):
            members.append((chance.choice(self.odd_keys()), chance.choice(HOSTILE)))
        if envelope.fields and chance.random() < 0.1:
            members.append(("beside", chance.choice(BROKEN)))  # members beside the fields are not read
        if chance.random() < 0.3:
            chance.shuffle(members)
        return _nested(members)

    def odd_keys(self) -> list[str]:
        """Return keys that have a meaning somewhere."""
        envelope = self.plan.envelope
        prefix = envelope.fields + "." if envelope.fields else ""
        keys = [prefix + field.name for event in self.plan.events.values() for field in event.fields]
        keys += [prefix + name for name in ("host", "a", "b", "old", "older", "new", "custom")]
        keys += ["new", "flag", "n", "received_time", "plan_version", "_rescued"]
        return keys + [path for path in (getattr(envelope, name) for name in Envelope.__dataclass_fields__) if path]

    def record(self, number: int) -> bytes:
        """Return one line of a log: mostly a record of questlog, sometimes of another program."""
        chance, event = self.chance, self.event()
        line = event.replace(b"\n", b" ").replace(b"\r", b" ")
        kind = chance.choices(("ours", "theirs", "foreign", "spoiled"), (80, 8, 5, 7))[0]
        if kind == "foreign":
            return line
        if kind == "theirs":  # another program records whatever was sent, JSON or not
            return b'{"questlog":1,"id":"t%d","received":5,"event":%s}' % (number, line)
        if kind == "spoiled":
            part = chance.choice((b"received", b"id", b"headers", b"event", b"base64", b"client_id", b"more"))
            value = chance.choice((*HOSTILE, b'"e30="', b'{"Host":"x"}')).replace(b"\n", b" ")
            return b'{"questlog":1,"id":"s%d","received":5,"event":%s,"%s":%s}' % (number, line, part, value)
        chosen = chance.random() < 0.2
        return encode_record(
            event,
            id=chance.choice(("mine", "yours")) if chosen else f"id-{number}",
            received_ms=NOW_MS + chance.choice((0, 1, 3_600_000, 90_000_000)),
            client_id=chosen,
            sent_ms=chance.choice((None, None, NOW_MS - 500, 0, NOW_MS + 86_400_000)),
            headers=dict(chance.choice(HEADERS)),
            is_json=is_json(event),
        )


HEADERS: tuple[dict[str, str], ...] = (
    {}, {"Host": "h", "Accept": "*/*", "User-Agent": "ab"}, {"host": "low"}, {"Host": "a", "hOST": "b"},
    {"event": "x", "Event-Type": 'evil,"event":1', "Cookie": "c"},
)  # fmt: skip
to_json = msgspec.json.encode


def _object(members: list[tuple[str, bytes]]) -> bytes:
    return b"{" + b",".join(to_json(key) + b":" + value for key, value in members) + b"}"


def _nested(members: list[tuple[str, bytes]]) -> bytes:
    """Return an object in which dotted keys are nested objects; equal keys are kept."""
    inner: dict[str, list[tuple[str, bytes]]] = {}
    flat: list[tuple[str, bytes]] = []
    for path, value in members:
        first, dot, rest = path.partition(".")
        if not dot:
            flat.append((first, value))
        elif first in inner:
            inner[first].append((rest, value))
        else:
            inner[first] = [(rest, value)]
            flat.append((first, b""))
    return _object([(key, _nested(inner[key]) if not value and key in inner else value) for key, value in flat])


def is_json(event: bytes) -> bool:
    """Return whether the collector takes *event* for JSON."""
    try:
        msgspec.json.decode(event)
    except RecursionError:
        return True
    except ValueError:
        return False
    return True


# -- batches --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrivals:
    """A plan, its log, and the positions that the tables have committed."""

    plan: Plan
    entries: list[Entry]
    held: dict[str, dict[int, int]]
    gaps: list[Gap]


@st.composite
def arrivals(draw: st.DrawFn) -> Arrivals:
    """Return any plan with any log, ordered within each partition."""
    plan = draw(plans())
    entries: list[Entry] = []
    offsets = {0: 0, 1: 0}
    size = draw(st.sampled_from((1, 4, 16, 40)))
    for number, seed in enumerate(draw(st.lists(st.integers(0, 2**32), min_size=size // 2, max_size=size))):
        sender = Sender(plan, seed)
        partition = sender.chance.choice((0, 0, 1))
        received = sender.chance.choice((NOW_MS, NOW_MS, 0, -(2**63), 2**62))
        entries.append(Entry(partition, offsets[partition], sender.record(number), received))
        offsets[partition] += 1
    held: dict[str, dict[int, int]] = {}
    for table in ("buy", "shared", "quarantine"):
        if draw(st.sampled_from((False, False, True))):
            held[table] = {0: draw(st.integers(0, 6))}
    gaps = [Gap(2, 3, 9, "torn", NOW_MS)] if draw(st.sampled_from((False, False, True))) else []
    return Arrivals(plan, entries, held, gaps)


def exact(tables: Mapping[str, pa.Table]) -> dict[str, tuple[str, list[str]]]:
    """Return every value as text that distinguishes minus zero from zero, and the schema of each table."""
    return {name: (str(t.schema), [repr(row) for row in t.to_pylist()]) for name, t in tables.items()}


def whole(shaped: Shaped) -> dict[str, Any]:
    """Return every result of `shape`, for comparison."""
    for table in shaped.tables.values():
        table.validate(full=True)
    return {
        "tables": exact(shaped.tables),
        "duplicates": shaped.duplicates,
        "held": shaped.committed,
        "seen": list(shaped.seen),
        "repeated": {name: count for name, count in shaped.repeated.items() if count},
    }
