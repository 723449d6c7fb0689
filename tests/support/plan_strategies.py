"""Strategies for any plan."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from questlog.plan import Envelope, Event, Field, Plan, Type
from questlog.plan.load import METHODS, RESERVED
from questlog.plan.version import with_version
from support.type_samples import SAMPLES

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda n: n not in RESERVED and n != "x_header")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PATHS = st.lists(st.text("aB_ .\"'\\é", min_size=1, max_size=4).filter(lambda t: "." not in t), min_size=1, max_size=3)
SCALARS = tuple(SAMPLES)
SIMPLE = st.one_of(
    st.sampled_from(SCALARS).map(Type),
    st.tuples(st.integers(1, 38), st.integers(0, 38)).filter(lambda p: p[1] <= p[0]).map(lambda p: Type("decimal", *p)),
)


def structs(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    members = st.lists(st.tuples(NAMES, inner), min_size=1, max_size=3, unique_by=lambda m: m[0])
    return members.map(lambda found: Type("struct", fields=tuple(found)))


TYPES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        inner.map(lambda t: Type("list", item=t)), inner.map(lambda t: Type("map", item=t)), structs(inner)
    ),
    max_leaves=5,
)
_MOMENTS = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1))


def values(type_: Type) -> st.SearchStrategy[Any]:
    """Return values that TOML can express and the type can hold."""
    if type_.kind == "list":
        assert type_.item is not None
        return st.lists(values(type_.item), max_size=3)
    if type_.kind == "map":
        assert type_.item is not None
        return st.dictionaries(TEXT, values(type_.item), max_size=3)
    if type_.kind == "struct":
        return st.fixed_dictionaries({}, optional={name: values(inner) for name, inner in type_.fields})
    generators: dict[str, st.SearchStrategy[Any]] = {
        "string": TEXT,
        "bool": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "double": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30),
        "decimal": _decimals(type_),
        "timestamp": _MOMENTS | st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 1, 1), timezones=_zones()),
        "date": st.dates() | st.dates().map(dt.date.isoformat),
        "time": st.times() | st.times().map(dt.time.isoformat),
    }
    return generators[type_.kind] if type_.kind in generators else st.sampled_from([*SAMPLES[type_.kind].fits.values()])


def _zones() -> st.SearchStrategy[dt.tzinfo]:
    return st.integers(-719, 719).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))


def _decimals(type_: Type) -> st.SearchStrategy[Any]:
    limit = 10**type_.precision - 1
    return st.integers(-limit, limit).map(lambda n: format(Decimal(f"{n}e-{type_.scale}"), "f"))


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    """Return a field with consistent options."""
    type_ = draw(TYPES)
    options: dict[str, Any] = {
        "required": draw(st.booleans()),
        "pii": draw(st.booleans()),
        "deprecated": draw(st.booleans()),
        "description": draw(TEXT),
    }
    choice = draw(st.sampled_from(["default", "enum", "bounds", "length", "pattern", "none"]))
    if choice == "default":
        options["default"] = draw(values(type_))
    elif choice == "enum" and type_.kind in ("string", "int", "long"):
        options["enum"] = tuple(draw(st.lists(values(type_), min_size=1, max_size=3, unique=True)))
        options["default"] = draw(st.none() | st.sampled_from(options["enum"]))
    elif choice == "bounds" and type_.kind in ("int", "long", "double"):
        bounds = sorted(draw(st.tuples(st.integers(-99, 99), st.floats(-99, 99))))
        options |= {"min": draw(st.none() | st.just(bounds[0])), "max": draw(st.none() | st.just(bounds[1]))}
    elif choice == "length" and type_.kind in ("string", "list"):
        options["max_length"] = draw(st.integers(1, 9))
    elif choice == "pattern" and type_.kind == "string":
        options["pattern"] = draw(st.sampled_from(["^a+$", r"\d{3}\.", "[\"'\\\\]", "é|ß"]))
    return Field(name, type_, **options)


@st.composite
def events(draw: st.DrawFn, name: str, number: int) -> Event:
    """Return an event with its own table."""
    names = draw(st.lists(NAMES, max_size=5, unique=True))
    found = [draw(fields(n)) for n in names]
    aliases = draw(st.lists(st.text("ABé .\"'", min_size=1, max_size=4), unique=True, max_size=3))
    if found and aliases:
        found[0] = _aliased(found[0], tuple(aliases))
    match: dict[str, Any] = {}
    if draw(st.booleans()):
        path = ".".join(draw(PATHS))
        match = {"kind": number, path: draw(TEXT | st.booleans() | st.integers() | st.floats(-1, 1))}
    return Event(
        name,
        draw(st.sampled_from([name, f"t_{name}"[:64]])),
        draw(st.sampled_from(["observe", "quarantine", "reject"])),
        draw(TEXT),
        draw(TEXT),
        tuple(match.items()),
        tuple(found),
    )


def _aliased(field: Field, aliases: tuple[str, ...]) -> Field:
    from dataclasses import replace

    return replace(field, aliases=aliases)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Return a complete plan, with its version."""
    names = draw(st.lists(NAMES.filter(lambda n: n not in ("events", "quarantine")), max_size=4, unique=True))
    tables: set[str] = set()
    found = {}
    for number, name in enumerate(names):
        event = draw(events(name, number))
        if event.table not in tables and event.table not in names[number + 1 :]:
            tables.add(event.table)
            found[name] = event
    free = [name for name, event in found.items() if not event.match]
    routes = {}
    if free:
        paths = st.text("/<>ab:_", max_size=5).map(lambda t: "/" + t)
        keys = st.tuples(st.sampled_from(METHODS), paths).map(" ".join)
        routes = draw(st.dictionaries(keys, st.sampled_from(free), max_size=3))
    envelope = Envelope(event_time=".".join(draw(PATHS)), fields=draw(st.just("") | st.just("data") | st.just("a.b")))
    return with_version(
        Plan(
            draw(TEXT),
            "",
            draw(st.sampled_from([("Host", "Accept", "User-Agent"), (), ("X-Header",)])),
            envelope,
            found,
            routes,
            draw(st.sampled_from([24.0, 0.0, 0.5, 8784.0])),
            draw(TEXT),
        )
    )
