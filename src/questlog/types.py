"""Field types: one row of `SCALARS` per scalar type. Everything that handles a type asks its row.

Lists, maps, structs and decimals are built from rows, and `Type` describes their structure.
"""

from __future__ import annotations

import base64
import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from questlog.errors import Reason

FIRST_MICROS = -62_135_596_800_000_000  # 0001-01-01, the earliest time that every engine can print
LAST_MICROS = 253_402_300_799_999_000  # 9999-12-31T23:59:59.999
LARGEST_FLOAT = 3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Type:
    """A field's type. `kind` is a row of `SCALARS`, or "decimal", "list", "map", "struct".

    `item` is a list's element or a map's value, `fields` are a struct's members.
    """

    kind: str
    precision: int = 0
    scale: int = 0
    item: Type | None = None
    fields: tuple[tuple[str, Type], ...] = ()

    def __str__(self) -> str:
        if self.kind == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.kind == "list":
            return f"list<{self.item}>"
        if self.kind == "map":
            return f"map<string,{self.item}>"
        if self.kind == "struct":
            return "struct<" + ",".join(f"{name}:{type_}" for name, type_ in self.fields) + ">"
        return self.kind


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar type, for every stage and every engine. Types that share an Iceberg type share their columns.

    arrow          the Arrow type, as `pyarrow.type_for_alias` reads it
    json_schema    the JSON values that fit
    convert        (row, JSON or TOML value) -> the column's value; raises `DoesNotFit`
    decoded        a msgspec type whose values the column holds unchanged; None: every value goes through `convert`
    low, high      the smallest and largest value, of numbers
    wider          types that a column can widen to in place
    from_presto    the JSON value of Presto's protocol -> the column's value; None: unchanged
    is_declarable  whether a plan may name it
    """

    name: str
    holds: str
    accepts: str
    arrow: str
    iceberg: str
    duckdb: str
    spark: str
    presto: str
    json_schema: Mapping[str, Any]
    convert: Callable[[Scalar, Any], Any]
    decoded: Any = None
    low: Any = None
    high: Any = None
    wider: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    from_presto: Callable[[Any], Any] | None = None
    is_ordered: bool = False
    is_declarable: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it holds whole numbers."""
        return self.decoded is int

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return self.decoded in (int, float)


class DoesNotFit(Exception):
    """A value that its column cannot hold; `path` is the place within the field, "" for the field itself."""

    def __init__(self, reason: Reason, detail: str, path: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.path = reason, detail, path


class Number(float):
    """A JSON number with a fraction or an exponent, or too long for any integer; `text` is its original spelling."""

    __slots__ = ("text",)
    text: str


def number(text: str) -> Number:
    """Return the double nearest to *text*, infinite if none is near; it keeps *text*."""
    result = Number(text)
    result.text = text
    return result


def wrong_type(type_: Scalar | Type, value: Any) -> DoesNotFit:
    """Return the error for a value of another type."""
    return DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} is not a valid {_name(type_)}")


def out_of_range(type_: Scalar | Type, value: Any) -> DoesNotFit:
    """Return the error for a value that the type has no room for."""
    return DoesNotFit(Reason.OUT_OF_RANGE, f"{short(value)} does not fit {_name(type_)}")


def _name(type_: Scalar | Type) -> str:
    return type_.name if isinstance(type_, Scalar) else str(type_)


def short(value: Any) -> str:
    """Return *value* for a message, in at most 80 characters."""
    text = value.text if isinstance(value, Number) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# -- conversions ----------------------------------------------------------------------------------


def _text(row: Scalar, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(row, value)
    return value


def _truth(row: Scalar, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(row, value)
    return value


def _whole(row: Scalar, value: Any) -> int:
    if isinstance(value, float):
        if math.isinf(value):
            raise out_of_range(row, value)
        if value.is_integer() and abs(value) <= 2**53:
            value = int(value)  # many clients send 3.0 for 3
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(row, value)
    if not row.low <= value <= row.high:
        raise out_of_range(row, value)
    return value


def _real(row: Scalar, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(row, value)
    try:
        result = float(value)
    except OverflowError:
        raise out_of_range(row, value) from None
    if not math.isfinite(result) or (row.high is not None and abs(result) > row.high):
        raise out_of_range(row, value)
    return result


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def to_timestamp(value: Any) -> tuple[int | None, str]:
    """Return microseconds since 1970 UTC in whole milliseconds, or what is wrong.

    Accepts ISO 8601 text (UTC if it names no zone) and whole milliseconds since 1970.
    """
    if value is None:
        return None, ""
    if isinstance(value, dt.datetime):
        moment = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not -62_135_596_800_000 <= value < 253_402_300_800_000:
            return None, f"{short(value)} ms is outside the years 1 to 9999"
        if value != int(value):
            return None, f"{short(value)} is not a whole number of milliseconds"
        return int(value) * 1000, ""
    elif isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            return None, f"{short(value)} is not an ISO 8601 time"
    else:
        return None, f"{short(value)} is not a time"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    micros = (moment - _EPOCH) // _MICROSECOND // 1000 * 1000
    if not FIRST_MICROS <= micros <= LAST_MICROS:
        return None, f"{short(value)} is outside the years 1 to 9999 in UTC"
    return micros, ""


def _timestamp(row: Scalar, value: Any) -> int:
    micros, problem = to_timestamp(value)
    if problem or micros is None:
        raise DoesNotFit(Reason.WRONG_TYPE, problem or "is not a time")
    return micros


_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"  # text: compiled at first use, not at every start of the command line


def _date(row: Scalar, value: Any) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and re.fullmatch(_DATE, value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise wrong_type(row, value)


_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?"


def _time(row: Scalar, value: Any) -> str:
    """Return HH:MM:SS.mmm. Presto misreads Iceberg's `time`; text of one length sorts alike in every engine."""
    if isinstance(value, str) and re.fullmatch(_TIME, value):
        value = dt.time.fromisoformat(value)
    if not isinstance(value, dt.time):
        raise wrong_type(row, value)
    return value.isoformat("milliseconds")


# -- the table ------------------------------------------------------------------------------------

_ROWS = (
    Scalar(
        "string", "text", "a string",
        arrow="string", iceberg="string", duckdb="VARCHAR", spark="STRING", presto="VARCHAR",
        json_schema={"type": "string"}, convert=_text, decoded=str,
        synonyms=("str", "text", "varchar", "char", "uuid", "json"),
    ),
    Scalar(
        "bool", "true or false", "`true`, `false`",
        arrow="bool", iceberg="boolean", duckdb="BOOLEAN", spark="BOOLEAN", presto="BOOLEAN",
        json_schema={"type": "boolean"}, convert=_truth, decoded=bool, synonyms=("boolean",),
    ),
    Scalar(
        "int", "a 32-bit integer", "a whole number; 3.0 counts as 3",
        arrow="int32", iceberg="int", duckdb="INTEGER", spark="INT", presto="INTEGER",
        json_schema={"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
        convert=_whole, decoded=int, low=-(2**31), high=2**31 - 1, wider=("long",), is_ordered=True,
        synonyms=("integer", "int32", "smallint", "short"),
    ),
    Scalar(
        "long", "a 64-bit integer", "a whole number; 3.0 counts as 3",
        arrow="int64", iceberg="long", duckdb="BIGINT", spark="BIGINT", presto="BIGINT",
        json_schema={"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
        convert=_whole, decoded=int, low=-(2**63), high=2**63 - 1, is_ordered=True, synonyms=("int64", "bigint"),
    ),
    Scalar(
        "float", "a 32-bit float", "a number",
        arrow="float", iceberg="float", duckdb="FLOAT", spark="FLOAT", presto="REAL",
        json_schema={"type": "number", "minimum": -LARGEST_FLOAT, "maximum": LARGEST_FLOAT},
        convert=_real, decoded=float, low=-LARGEST_FLOAT, high=LARGEST_FLOAT, wider=("double",), is_ordered=True,
        synonyms=("real", "float32"), from_presto=float,
    ),
    Scalar(
        "double", "a 64-bit float", "a number",
        arrow="double", iceberg="double", duckdb="DOUBLE", spark="DOUBLE", presto="DOUBLE",
        json_schema={"type": "number"}, convert=_real, decoded=float, is_ordered=True,
        synonyms=("number", "float64"), from_presto=float,
    ),
    Scalar(
        "timestamp", "a time in UTC, to the millisecond", "an ISO 8601 string, or milliseconds since 1970",
        # Values are whole milliseconds: Presto prints milliseconds but compares microseconds.
        arrow="timestamp[us]", iceberg="timestamp", duckdb="TIMESTAMP", spark="TIMESTAMP_NTZ", presto="TIMESTAMP",
        json_schema={"anyOf": [
            {"type": "string", "format": "date-time"}, {"type": "integer", "description": "Milliseconds since 1970."}
        ]},
        convert=_timestamp, is_ordered=True, synonyms=("datetime", "timestamptz"),
        from_presto=dt.datetime.fromisoformat,
    ),
    Scalar(
        "date", "a day", '`"2026-11-24"`',
        arrow="date32", iceberg="date", duckdb="DATE", spark="DATE", presto="DATE",
        json_schema={"type": "string", "format": "date"}, convert=_date, decoded=dt.date, is_ordered=True,
        from_presto=dt.date.fromisoformat,
    ),
    Scalar(
        "time", "a time of day, as a string: `12:30:00.000`", '`"12:30"`, `"12:30:00.5"`, without a zone',
        arrow="string", iceberg="string", duckdb="VARCHAR", spark="STRING", presto="VARCHAR",
        json_schema={"type": "string", "pattern": f"^{_TIME}$"}, convert=_time, is_ordered=True,
        synonyms=("timeofday", "clock"),
    ),
    Scalar(
        "binary", "bytes", "nothing: only questlog's own columns hold it",
        arrow="binary", iceberg="binary", duckdb="BLOB", spark="BINARY", presto="VARBINARY",
        json_schema={"not": {}}, convert=_text, from_presto=base64.b64decode, is_declarable=False,
    ),
)  # fmt: skip
SCALARS: Mapping[str, Scalar] = {row.name: row for row in _ROWS}
NAME_OF_ICEBERG: Mapping[str, str] = {row.iceberg: row.name for row in reversed(_ROWS)}
"""Iceberg type -> the first row that is stored as it."""


def is_number(type_: Type) -> bool:
    """Return whether values of *type_* are numbers."""
    return type_.kind == "decimal" or (type_.kind in SCALARS and SCALARS[type_.kind].is_number)


def is_ordered(type_: Type) -> bool:
    """Return whether a field of *type_* can have `min` and `max`."""
    return type_.kind == "decimal" or (type_.kind in SCALARS and SCALARS[type_.kind].is_ordered)


def decoded_type(row: Scalar, low: Any = None, high: Any = None) -> Any:
    """Return the msgspec type that decodes only values within the row's bounds and the narrower *low* and *high*."""
    import msgspec  # late: a query over landed tables decodes no JSON

    bounds = [bound for bound in (row.low, low) if bound is not None], [b for b in (row.high, high) if b is not None]
    least, most = max(bounds[0], default=None), min(bounds[1], default=None)
    return row.decoded if least is most is None else Annotated[row.decoded, msgspec.Meta(ge=least, le=most)]


_NUMBER = r"-?[0-9]{1,18}(\.[0-9]+)?"


def from_text(text: str, type_: Type) -> Any:
    """Return *text*, of a form or a query string, as the JSON value that *type_* expects; unchanged if it is none."""
    decoded = SCALARS[type_.kind].decoded if type_.kind in SCALARS else None
    if decoded in (int, float) and re.fullmatch(_NUMBER, text):
        return decoded(text) if decoded is float or "." not in text else text
    if decoded is bool and text in ("true", "false"):
        return text == "true"
    return text
