"""Do a field's options fit its type and each other? What `load` asks of every field of a plan."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from questlog.plan import Type

WHOLE = {"int": 31, "long": 63}
"""Whole types and their bits without the sign."""
NUMBERS = frozenset({"int", "long", "float", "double", "decimal"})
ORDERED = NUMBERS | {"timestamp", "date"}
_LARGER = {"int": (Type("long"), Type("decimal", 38, 0)), "long": (Type("decimal", 38, 0),)}
_LARGEST_FLOAT = 3.4028234663852886e38
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_FIRST = dt.datetime(1, 1, 1, tzinfo=dt.UTC)
_LAST = dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)

Fault = tuple[tuple[str | int, ...], str]
"""Where below the field, and what is wrong."""


def misfit(type_: Type, value: Any) -> str:
    """Return why *value*, as TOML has it, is no value of *type_*, or "" if it is one."""
    kind = type_.kind
    if kind == "list" and isinstance(value, list):
        assert type_.item is not None
        return next((found for found in (misfit(type_.item, inner) for inner in value) if found), "")
    if kind == "map" and isinstance(value, dict):
        assert type_.item is not None
        return next((found for found in (misfit(type_.item, inner) for inner in value.values()) if found), "")
    if kind == "struct" and isinstance(value, dict):
        members = dict(type_.fields)
        unknown = next((key for key in value if key not in members), None)
        if unknown is not None:
            return f"{unknown!r} is no member of {type_}"
        return next((found for found in (misfit(members[key], inner) for key, inner in value.items()) if found), "")
    if _fits(type_, value):
        return ""
    if kind in WHOLE and isinstance(value, int) and not isinstance(value, bool):
        larger = next((other for other in _LARGER.get(kind, ()) if _fits(other, value)), None)
        return f"{shown(value)} does not fit {kind}" + (f"; {larger} holds it" if larger else "")
    return f"{shown(value)} is no {type_}"


def _fits(type_: Type, value: Any) -> bool:
    kind = type_.kind
    if kind in ("string", "bool"):
        return isinstance(value, str if kind == "string" else bool)
    if kind in WHOLE:
        limit = 2 ** WHOLE[kind]
        return _is_number(value) and isinstance(value, int) and -limit <= value < limit
    if kind in ("float", "double"):
        return _is_number(value) and abs(value) <= (_LARGEST_FLOAT if kind == "float" else 1.7976931348623157e308)
    if kind == "decimal":
        return _fits_decimal(type_, value)
    if kind == "timestamp":
        return _moment(value) is not None
    return kind == "date" and _day(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not _is_endless(value)


def _is_endless(value: int | float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _fits_decimal(type_: Type, value: Any) -> bool:
    if not (_is_number(value) or (isinstance(value, str) and _DECIMAL.fullmatch(value))):
        return False
    try:
        exact = decimal.Decimal(str(value))
        with decimal.localcontext(prec=100):
            fitted = exact.quantize(decimal.Decimal(1).scaleb(-type_.scale), decimal.ROUND_DOWN)
    except (decimal.InvalidOperation, ValueError):
        return False
    return fitted == exact and (not exact or exact.adjusted() < type_.precision - type_.scale)


def _moment(value: Any) -> dt.datetime | None:
    """Return a time of the plan in UTC, or None; without a zone it is UTC, a number is milliseconds."""
    try:
        if isinstance(value, str):
            value = dt.datetime.fromisoformat(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=value)
        if not isinstance(value, dt.datetime):
            return None
        moment = value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _FIRST <= moment <= _LAST else None


def _day(value: Any) -> dt.date | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, dt.date) and not isinstance(value, dt.datetime) else None


def comparable(type_: Type, value: Any) -> Any:
    """Return a value that fits an ordered type, or a bound of one, so that two of them can be compared."""
    if type_.kind == "timestamp":
        return _moment(value)
    return _day(value) if type_.kind == "date" else decimal.Decimal(str(value))


def shown(value: Any) -> str:
    """Return *value* as TOML writes it, cut short."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = repr(value) if isinstance(value, str | list | dict) else text
    return text if len(text) <= 60 else text[:57] + "..."


def option_faults(type_: Type, options: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong with a field's options: each alone first, then where they contradict each other."""
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
            yield ("max_length",), f"must be a whole number from 1, not {shown(length)}"
    if "pattern" in options:
        yield from _pattern_faults(type_, options["pattern"])
    if "enum" in options:
        yield from _enum_faults(type_, options["enum"])


def _bound_faults(type_: Type, key: str, value: Any) -> Iterator[Fault]:
    if type_.kind not in ORDERED:
        hint = "; for its length write max_length" if type_.kind in ("string", "list") and key == "max" else ""
        yield (key,), f"is for numbers, timestamp and date, not for {type_}{hint}"
    elif type_.kind in NUMBERS and _is_number(value):
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
            yield ("pattern",), f"not a regular expression: {error}"


def _enum_faults(type_: Type, values: Any) -> Iterator[Fault]:
    if type_.kind != "string" and type_.kind not in NUMBERS:
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
    """Yield what can never be: bounds that leave nothing, a default or a listed value that the rest forbids."""
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
    """Return why a value of the right type is not allowed, or ""."""
    allowed: Sequence[Any] = options.get("enum", ())
    if allowed and value not in allowed:
        return f"is none of enum = [{', '.join(map(shown, allowed))}]"
    if "max_length" in options and len(value) > options["max_length"]:
        return f"is longer than max_length = {options['max_length']}"
    if "pattern" in options and not re.search(options["pattern"], value):
        return f"does not match pattern = {options['pattern']!r}"
    if "min" in options and comparable(type_, value) < comparable(type_, options["min"]):
        return f"is less than min = {shown(options['min'])}"
    if "max" in options and comparable(type_, value) > comparable(type_, options["max"]):
        return f"is more than max = {shown(options['max'])}"
    return ""
