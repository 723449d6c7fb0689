"""One JSON value -> one typed column value, or why it does not fit."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from typing import Any

from questlog.errors import Reason
from questlog.plan import Type
from questlog.shape.read import Number

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
FIRST_MICROS = -62_135_596_800_000_000  # 0001-01-01, the first moment that every reader of the table can print
LAST_MICROS = 253_402_300_799_999_000  # 9999-12-31T23:59:59.999
LIMITS = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}
LARGEST_FLOAT = 3.4028234663852886e38
EXACT_DIGITS = 15
"""Every decimal number of so many digits is told apart by a double, so a double is as good as the digits."""


class DoesNotFit(Exception):
    """A value that its column cannot hold; `path` is where in the field, "" for the field itself."""

    def __init__(self, reason: Reason, detail: str, path: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.path = reason, detail, path


def convert(type_: Type, value: Any) -> Any:
    """Return *value* as the Python value Arrow stores in a column of *type_*; raise `DoesNotFit`."""
    kind = type_.kind
    if kind == "list":
        if not isinstance(value, list):
            raise _wrong(type_, value)
        assert type_.item is not None
        return [_inner(type_.item, v, f"[{i}]") for i, v in enumerate(value)]
    if kind == "map":
        if not isinstance(value, dict):
            raise _wrong(type_, value)
        assert type_.item is not None
        return [(k, _inner(type_.item, v, f".{k}")) for k, v in value.items()]
    if kind == "struct":
        if not isinstance(value, dict):
            raise _wrong(type_, value)
        names = [name for name, _ in type_.fields]
        extra = next((k for k in value if k not in names), None)
        if extra is not None:
            raise DoesNotFit(Reason.WRONG_TYPE, "is not a member of the struct", f".{extra}")
        return {name: _inner(inner, value.get(name), f".{name}") for name, inner in type_.fields}
    return _SCALARS[kind](type_, value)


def _inner(type_: Type, value: Any, path: str) -> Any:
    if value is None:
        return None
    try:
        return convert(type_, value)
    except DoesNotFit as error:
        raise DoesNotFit(error.reason, error.detail, path + error.path) from None


def _string(type_: Type, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(type_, value)
    return value


def _bool(type_: Type, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(type_, value)
    return value


def _whole(type_: Type, value: Any) -> int:
    if isinstance(value, float):
        if math.isinf(value):
            raise _too_big(type_, value)
        if value.is_integer() and abs(value) <= 2**53:
            value = int(value)  # 3.0 is what many clients send for 3
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(type_, value)
    low, high = LIMITS[type_.kind]
    if not low <= value <= high:
        raise _too_big(type_, value)
    return value


def _real(type_: Type, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(type_, value)
    try:
        found = float(value)
    except OverflowError:
        raise _too_big(type_, value) from None
    if not math.isfinite(found) or (type_.kind == "float" and abs(found) > LARGEST_FLOAT):
        raise _too_big(type_, value)
    return found


_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _decimal(type_: Type, value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(type_, value)
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise _wrong(type_, value)
    try:
        exact = _digits(value)
    except decimal.InvalidOperation:  # an exponent beyond all bounds
        raise _too_big(type_, value) from None
    if not exact.is_finite() or (exact.adjusted() >= type_.precision - type_.scale and exact):
        raise _too_big(type_, value)
    if exact and exact.adjusted() < -type_.scale:
        raise DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} has more than {type_.scale} decimals")
    with decimal.localcontext(prec=100):
        fitted = exact.quantize(decimal.Decimal(1).scaleb(-type_.scale), decimal.ROUND_DOWN)
    if fitted != exact:
        raise DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} has more than {type_.scale} decimals")
    return fitted


def _digits(value: int | float | str) -> decimal.Decimal:
    """Return the number meant: of a float its shortest form, of longer ones every digit that was sent."""
    if not isinstance(value, float):
        return decimal.Decimal(value)
    shortest = decimal.Decimal(repr(float(value)))
    if isinstance(value, Number) and len(shortest.as_tuple().digits) > EXACT_DIGITS:
        return decimal.Decimal(value.text)
    return shortest


def _timestamp(type_: Type, value: Any) -> int:
    micros, problem = to_timestamp(value)
    if problem or micros is None:
        raise DoesNotFit(Reason.WRONG_TYPE, problem or "is no time")
    return micros


_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _date(type_: Type, value: Any) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise _wrong(type_, value)


_SCALARS = {
    "string": _string, "bool": _bool, "int": _whole, "long": _whole, "float": _real, "double": _real,
    "decimal": _decimal, "timestamp": _timestamp, "date": _date,
}  # fmt: skip


def to_timestamp(value: Any) -> tuple[int | None, str]:
    """Return microseconds since 1970 UTC in whole milliseconds, or what is wrong.

    Accepts ISO 8601 text (no zone means UTC) and whole milliseconds since 1970.
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
            return None, f"{short(value)} is no ISO 8601 time"
    else:
        return None, f"{short(value)} is no time"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    micros = (moment - _EPOCH) // _MICROSECOND // 1000 * 1000
    if not FIRST_MICROS <= micros <= LAST_MICROS:
        return None, f"{short(value)} is outside the years 1 to 9999 in UTC"
    return micros, ""


_LONG = Type("long")


def to_integer(value: Any) -> tuple[int | None, str]:
    """Return a 64-bit integer, or what is wrong."""
    if value is None:
        return None, ""
    try:
        return _whole(_LONG, value), ""
    except DoesNotFit as error:
        return None, error.detail


def to_text(value: Any) -> tuple[str | None, str]:
    """Return who or which as text, or what is wrong: text stays, a number becomes its digits."""
    if value is None or isinstance(value, str):
        return value, ""
    if isinstance(value, Number):
        return value.text, ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), ""
    return None, f"{short(value)} is neither text nor a number"


def _wrong(type_: Type, value: Any) -> DoesNotFit:
    return DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} is no {type_}")


def _too_big(type_: Type, value: Any) -> DoesNotFit:
    return DoesNotFit(Reason.OUT_OF_RANGE, f"{short(value)} does not fit {type_}")


def short(value: Any) -> str:
    """Return *value* for a message, 80 characters at most."""
    text = value.text if isinstance(value, Number) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
