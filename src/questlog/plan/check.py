"""Checks a plan's fields: do the options fit the type and each other, and do events agree about shared tables?"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from questlog.plan import Event
from questlog.plan.values import convert
from questlog.types import SCALARS, DoesNotFit, Type, is_number, is_ordered

_HUGE = Type("decimal", 38, 0)

Where = tuple[str | int, ...]
Fault = tuple[Where, str]
"""The path below the field, or in the plan, and what is wrong there."""


def misfit(type_: Type, value: Any) -> str:
    """Return why *value*, as TOML reads it, is not a value of *type_*, or "" if it is one."""
    kind = type_.kind
    if kind == "list" and isinstance(value, list):
        assert type_.item is not None
        return next(filter(None, (misfit(type_.item, inner) for inner in value)), "")
    if kind == "map" and isinstance(value, dict):
        assert type_.item is not None
        return next(filter(None, (misfit(type_.item, inner) for inner in value.values())), "")
    if kind == "struct" and isinstance(value, dict):
        members = dict(type_.fields)
        unknown = next((key for key in value if key not in members), None)
        if unknown is not None:
            return f"{unknown!r} is not a member of {type_}"
        return next(filter(None, (misfit(members[key], inner) for key, inner in value.items())), "")
    if _fits(type_, value):
        return ""
    row = SCALARS.get(kind)
    if row is not None and row.is_whole and isinstance(value, int) and not isinstance(value, bool):
        larger = next((other for other in (*map(Type, row.wider), _HUGE) if _fits(other, value)), None)
        return f"{shown(value)} does not fit {kind}" + (f"; {larger} holds it" if larger else "")
    return f"{shown(value)} is not a valid {type_}"


def _fits(type_: Type, value: Any) -> bool:
    is_whole = type_.kind in SCALARS and SCALARS[type_.kind].is_whole
    if isinstance(value, float) and (is_whole or not is_number(type_)):
        return False  # JSON has one kind of number, so 3.0 may be a whole one there; TOML has two
    try:
        convert(type_, value)
    except DoesNotFit:
        return False
    return True


def comparable(type_: Type, value: Any) -> Any:
    """Return a value or a bound of an ordered type in a form that can be compared."""
    return decimal.Decimal(str(value)) if is_number(type_) else convert(type_, value)


def shown(value: Any) -> str:
    """Return *value* as TOML writes it, cut short."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = repr(value) if isinstance(value, str | list | dict) else text
    return text if len(text) <= 60 else text[:57] + "..."


def option_faults(type_: Type, options: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of a field's options: first those of single options, then contradictions between them."""
    bad = set()
    for where, message in _single_faults(type_, options):
        bad.add(where[0])
        yield where, message
    good = {key: value for key, value in options.items() if key not in bad}
    yield from _contradictions(type_, good)


def _single_faults(type_: Type, options: Mapping[str, Any]) -> Iterator[Fault]:
    for key in ("required", "pii", "deprecated"):
        if not isinstance(options.get(key, False), bool):
            yield (key,), f"must be true or false, not {shown(options[key])}"
    if not isinstance(options.get("description", ""), str):
        yield ("description",), f"must be text in quotes, not {shown(options['description'])}"
    if "default" in options:
        problem = misfit(type_, options["default"])
        if problem:
            yield ("default",), problem
    for key in ("min", "max"):
        if key in options:
            yield from _bound_faults(type_, key, options[key])
    if "max_length" in options:
        length = options["max_length"]
        if type_.kind not in ("string", "list"):
            yield ("max_length",), f"is for string and list<T>, not for {type_}"
        elif isinstance(length, bool) or not isinstance(length, int) or not 1 <= length < 2**31:
            yield ("max_length",), f"must be a whole number of at least 1, not {shown(length)}"
    if "pattern" in options:
        yield from _pattern_faults(type_, options["pattern"])
    if "enum" in options:
        yield from _enum_faults(type_, options["enum"])


def _is_number(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _bound_faults(type_: Type, key: str, value: Any) -> Iterator[Fault]:
    if not is_ordered(type_):
        hint = "; use max_length for its length" if type_.kind in ("string", "list") and key == "max" else ""
        yield (key,), f"is for numbers and times, not for {type_}{hint}"
    elif is_number(type_) and _is_number(value):
        return  # a bound between two values is a bound as well
    elif misfit(type_, value):
        yield (key,), misfit(type_, value)


def _pattern_faults(type_: Type, pattern: Any) -> Iterator[Fault]:
    if type_.kind != "string":
        yield ("pattern",), f"is for string, not for {type_}"
    elif not isinstance(pattern, str):
        yield ("pattern",), f"must be a regular expression in quotes, not {shown(pattern)}"
    else:
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield ("pattern",), f"is not a regular expression: {error}"


def _enum_faults(type_: Type, values: Any) -> Iterator[Fault]:
    if type_.kind != "string" and not is_number(type_):
        yield ("enum",), f"is for string and numbers, not for {type_}"
    elif not isinstance(values, list) or not values:
        yield ("enum",), f'must list the allowed values, as in enum = ["gold", "usd"], not {shown(values)}'
    else:
        for index, value in enumerate(values):
            if misfit(type_, value):
                yield ("enum", index), misfit(type_, value)
            elif value in values[:index]:
                yield ("enum", index), f"{shown(value)} is listed twice"


def _contradictions(type_: Type, options: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield contradictions: bounds that exclude everything, a default or a listed value that another option forbids."""
    if "min" in options and "max" in options:
        low, high = (comparable(type_, options[key]) for key in ("min", "max"))
        if low > high:
            yield ("max",), f"{shown(options['max'])} is less than min = {shown(options['min'])}"
            options = {key: value for key, value in options.items() if key not in ("min", "max")}
    if "default" in options:
        problem = _forbidden(type_, options["default"], options)
        if problem:
            yield ("default",), f"{shown(options['default'])} {problem}"
    for index, value in enumerate(options.get("enum", ())):
        problem = _forbidden(type_, value, {key: limit for key, limit in options.items() if key != "enum"})
        if problem:
            yield ("enum", index), f"{shown(value)} {problem}"


def _forbidden(type_: Type, value: Any, options: Mapping[str, Any]) -> str:
    """Return why a value of the right type is not allowed, or "" if it is."""
    allowed: Sequence[Any] = options.get("enum", ())
    if allowed and value not in allowed:
        return f"is not in enum = [{', '.join(map(shown, allowed))}]"
    if "max_length" in options and len(value) > options["max_length"]:
        return f"is longer than max_length = {options['max_length']}"
    if "pattern" in options and not re.search(options["pattern"], value):
        return f"does not match pattern = {options['pattern']!r}"
    if "min" in options and comparable(type_, value) < comparable(type_, options["min"]):
        return f"is less than min = {shown(options['min'])}"
    if "max" in options and comparable(type_, value) > comparable(type_, options["max"]):
        return f"is greater than max = {shown(options['max'])}"
    return ""


# -- events that share a table ----------------------------------------------------------------------


def shared_faults(events: Mapping[str, Event]) -> Iterator[Fault]:
    """Yield columns on which events of one table disagree, and events that can never be matched."""
    yield from _column_faults(events)
    yield from _alias_faults(events)
    yield from _match_faults(events)


def _column_faults(events: Mapping[str, Event]) -> Iterator[Fault]:
    seen: dict[tuple[str, str], tuple[str, Type]] = {}
    for event in events.values():
        for field in event.fields:
            name, type_ = seen.setdefault((event.table, field.name), (event.name, field.type))
            if type_ != field.type:
                yield (
                    ("events", event.name, "fields", field.name),
                    f"is {field.type} here and {type_} in event {name}, both in table {event.table};"
                    " give both the same type, or move one to another name or table",
                )


def _alias_faults(events: Mapping[str, Event]) -> Iterator[Fault]:
    """A column can be renamed only if no event of its table still uses the old name."""
    columns = {(event.table, field.name): event.name for event in events.values() for field in event.fields}
    for event in events.values():
        for field in event.fields:
            for index, alias in enumerate(field.aliases):
                other = columns.get((event.table, alias), event.name)
                if other != event.name:
                    yield (
                        ("events", event.name, "fields", field.name, "aliases", index),
                        f"{alias!r} is still a field of event {other} in the same table {event.table};"
                        " rename it there too",
                    )


def _match_faults(events: Mapping[str, Event]) -> Iterator[Fault]:
    """The first matching event counts, so a later event must not be a special case of an earlier one."""
    earlier: list[Event] = []
    for event in events.values():
        if not event.match:
            continue
        match = dict(event.match)
        for other in earlier:
            if all(path in match and _same(match[path], value) for path, value in other.match):
                yield (
                    ("events", event.name, "match"),
                    f"never applies: everything it matches is already matched by {other.name}, which comes first",
                )
                break
        earlier.append(event)


def _same(one: object, other: object) -> bool:
    return isinstance(one, bool) is isinstance(other, bool) and one == other
