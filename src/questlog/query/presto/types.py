"""Map Presto's types to those of Arrow and the plan, and its JSON values to Python."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa

from questlog.types import SCALARS, Type

_TOKEN = re.compile(r'\s*("(?:[^"]|"")*"|[(),]|[^\s(),"]+)')


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type as the server spells it, as a tree: `array(row(a bigint))`. `names` are the members of a row."""

    name: str
    inner: tuple[SqlType, ...] = ()
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()


def parse_type(text: str) -> SqlType:
    """Parse the text of a type."""
    type_, rest = _parse([match.group(1) for match in _TOKEN.finditer(text)])
    assert not rest, text
    return type_


def _parse(tokens: list[str]) -> tuple[SqlType, list[str]]:
    words = []
    while tokens and tokens[0] not in "(),":
        words.append(tokens.pop(0).lower())
    name = " ".join(words)
    inner: list[SqlType] = []
    names: list[str] = []
    numbers: list[int] = []
    if tokens and tokens[0] == "(":
        while tokens.pop(0) != ")":
            if name == "row":
                names.append(tokens.pop(0).removeprefix('"').removesuffix('"').replace('""', '"'))
            if tokens[0].isdecimal():
                numbers.append(int(tokens.pop(0)))
            else:
                type_, tokens = _parse(tokens)
                inner.append(type_)
        while tokens and tokens[0] not in "(),":  # timestamp(3) with time zone
            name += " " + tokens.pop(0).lower()
    return SqlType(name, tuple(inner), tuple(names), tuple(numbers)), tokens


_ROWS = {row.presto.lower(): row for row in reversed([*SCALARS.values()])}
"""Presto's type -> the first row of `SCALARS` that is stored as it."""
_FOREIGN = {
    "tinyint": (pa.int8(), "int"), "smallint": (pa.int16(), "int"), "time": (pa.time64("us"), "string"),
    "timestamp with time zone": (pa.timestamp("us", "UTC"), "timestamp"),
}  # fmt: skip
"""Types that only the result of a query can have -> Arrow's type, and the nearest type of the plan."""


def arrow_type(type_: SqlType) -> pa.DataType:
    """Return the Arrow type; a type that Arrow lacks becomes a string, as the server writes it."""
    if type_.name == "decimal":
        return pa.decimal128(type_.numbers[0], type_.numbers[1])
    if type_.name == "array":
        return pa.list_(arrow_type(type_.inner[0]))
    if type_.name == "map":
        return pa.map_(arrow_type(type_.inner[0]), arrow_type(type_.inner[1]))
    if type_.name == "row":
        return pa.struct(list(zip(type_.names, map(arrow_type, type_.inner), strict=True)))
    if type_.name == "unknown":
        return pa.null()
    if type_.name in _ROWS:
        return pa.type_for_alias(_ROWS[type_.name].arrow)
    return _FOREIGN[type_.name][0] if type_.name in _FOREIGN else pa.string()


def plan_type(type_: SqlType) -> Type:
    """Return the plan type of a column."""
    if type_.name == "decimal":
        return Type("decimal", type_.numbers[0], type_.numbers[1])
    if type_.name == "array":
        return Type("list", item=plan_type(type_.inner[0]))
    if type_.name == "map":
        return Type("map", item=plan_type(type_.inner[1]))
    if type_.name == "row":
        return Type("struct", fields=tuple(zip(type_.names, map(plan_type, type_.inner), strict=True)))
    if type_.name in _ROWS:
        return Type(_ROWS[type_.name].name)
    return Type(_FOREIGN[type_.name][1] if type_.name in _FOREIGN else "string")


def arrow_table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return *rows* as a table; a duplicate column name is kept."""
    types = [parse_type(type_) for _, type_ in columns]
    arrays = []
    for index, type_ in enumerate(types):
        read = _reader(type_)
        arrays.append(pa.array([read(row[index]) for row in rows], arrow_type(type_)))
    return pa.Table.from_arrays(arrays, names=[name for name, _ in columns])


def _reader(type_: SqlType) -> Callable[[Any], Any]:
    """Return a function that converts a JSON value of this type to a Python value."""
    row = _ROWS.get(type_.name)
    read = (row.from_presto if row is not None else _READERS.get(type_.name)) or _same
    if type_.name == "array":
        item = _reader(type_.inner[0])
        read = lambda value: [item(each) for each in value]  # noqa: E731
    elif type_.name == "map":
        key, item = map(_reader, type_.inner)
        keys = _key_reader(type_.inner[0], key)
        read = lambda value: [(keys(name), item(each)) for name, each in value.items()]  # noqa: E731
    elif type_.name == "row":
        items = [_reader(inner) for inner in type_.inner]
        read = lambda value: {n: i(v) for n, i, v in zip(type_.names, items, value, strict=True)}  # noqa: E731
    return lambda value: None if value is None else read(value)


def _key_reader(type_: SqlType, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that converts the keys of a map, which are always strings in JSON."""
    if type_.name in ("tinyint", "smallint", "integer", "bigint"):
        return int
    if type_.name == "boolean":
        return lambda value: value == "true"
    return read


def _same(value: Any) -> Any:
    return value


def _zoned(value: str) -> dt.datetime:
    """Parse `2026-01-02 03:04:05.678 UTC`, or a time with the name or offset of another zone."""
    local, _, zone = value.rpartition(" ")
    naive = dt.datetime.fromisoformat(local)
    if zone[0] in "+-":
        return dt.datetime.fromisoformat(f"{local}{zone}").astimezone(dt.UTC)
    from zoneinfo import ZoneInfo

    return naive.replace(tzinfo=ZoneInfo(zone)).astimezone(dt.UTC)


_READERS: dict[str, Callable[[Any], Any]] = {
    "decimal": Decimal, "timestamp with time zone": _zoned, "time": dt.time.fromisoformat,
}  # fmt: skip
