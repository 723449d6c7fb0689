"""One JSON value -> one typed column value, or why it does not fit."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from functools import lru_cache
from typing import Any

from questlog.errors import Reason, Reject
from questlog.plan import Event, Field, Type

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LIMITS = {"int": (-(2**31), 2**31 - 1), "long": (-(2**63), 2**63 - 1)}


class _DoesNotFit(Exception):
    def __init__(self, reason: Reason, detail: str, path: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail, self.path = reason, detail, path


def convert_fields(event: Event, source: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Reject | None]:
    """Return typed values, what is kept aside (unknown or unfit), and the first problem."""
    values: dict[str, Any] = {}
    rescued = dict(source)
    problem: Reject | None = None
    for field in event.fields:
        name = next((n for n in (field.name, *field.aliases) if n in source), None)
        value = source[name] if name is not None else None
        if value is None:
            if name is not None:
                del rescued[name]
            if field.default is not None:
                value = field.default
            elif field.required:
                problem = problem or Reject(Reason.MISSING_FIELD, field.name, "is required")
                continue
            else:
                continue
        try:
            values[field.name] = _checked(field, value)
        except _DoesNotFit as error:
            path = field.name + error.path
            problem = problem or Reject(error.reason, path, error.detail)
        else:
            if name is not None:
                rescued.pop(name, None)
    return values, rescued, problem


def _checked(field: Field, value: Any) -> Any:
    typed = convert(field.type, value)
    if field.enum and value not in field.enum:
        raise _DoesNotFit(Reason.NOT_IN_ENUM, f"{_short(value)} is none of {', '.join(map(str, field.enum))}")
    if field.max_length is not None and hasattr(typed, "__len__") and len(typed) > field.max_length:
        raise _DoesNotFit(Reason.TOO_LONG, f"length {len(typed)}, {field.max_length} at most")
    if field.pattern is not None and isinstance(typed, str) and not _compiled(field.pattern).search(typed):
        raise _DoesNotFit(Reason.NO_MATCH, f"{_short(value)} does not match {field.pattern}")
    for bound, sign in ((field.min, -1), (field.max, 1)):
        if bound is not None and _beyond(typed, convert(field.type, bound), sign):
            word = "least" if sign < 0 else "most"
            raise _DoesNotFit(Reason.OUT_OF_RANGE, f"{_short(value)}: at {word} {bound}")
    return typed


def _beyond(value: Any, bound: Any, sign: int) -> bool:
    return bool(value > bound) if sign > 0 else bool(value < bound)


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def convert(type_: Type, value: Any) -> Any:
    """Return *value* as the column's Python value; raise `_DoesNotFit`."""
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
            raise _DoesNotFit(Reason.WRONG_TYPE, "is not a member of the struct", f".{extra}")
        return {name: _inner(inner, value.get(name), f".{name}") for name, inner in type_.fields}
    return _SCALARS[kind](type_, value)


def _inner(type_: Type, value: Any, path: str) -> Any:
    if value is None:
        return None
    try:
        return convert(type_, value)
    except _DoesNotFit as error:
        raise _DoesNotFit(error.reason, error.detail, path + error.path) from None


def _string(type_: Type, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(type_, value)
    return value


def _bool(type_: Type, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(type_, value)
    return value


def _whole(type_: Type, value: Any) -> int:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)  # 3.0 is what many clients send for 3
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(type_, value)
    low, high = _LIMITS[type_.kind]
    if not low <= value <= high:
        raise _DoesNotFit(Reason.OUT_OF_RANGE, f"{_short(value)} does not fit {type_.kind}")
    return value


def _real(type_: Type, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(type_, value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or (type_.kind == "float" and abs(number) > 3.4028234663852886e38):
        raise _DoesNotFit(Reason.OUT_OF_RANGE, f"{_short(value)} does not fit {type_.kind}")
    return number


def _decimal(type_: Type, value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(type_, value)
    try:
        number = decimal.Decimal(str(value) if isinstance(value, float) else value)
    except (decimal.InvalidOperation, ValueError):
        raise _wrong(type_, value) from None
    if not number.is_finite() or abs(number.adjusted()) > 100:
        if number.is_zero():
            return decimal.Decimal(0)
        raise _DoesNotFit(Reason.OUT_OF_RANGE, f"{_short(value)} does not fit {type_}")
    with decimal.localcontext(prec=200):
        fitted = number.quantize(decimal.Decimal(1).scaleb(-type_.scale))
        if fitted != number:
            raise _DoesNotFit(Reason.WRONG_TYPE, f"{_short(value)} has more than {type_.scale} decimals")
    if fitted and fitted.adjusted() >= type_.precision - type_.scale:
        raise _DoesNotFit(Reason.OUT_OF_RANGE, f"{_short(value)} does not fit {type_}")
    return fitted


def _timestamp(type_: Type, value: Any) -> int:
    micros, problem = to_timestamp(value)
    if problem or micros is None:
        raise _DoesNotFit(Reason.WRONG_TYPE, problem or "is no time")
    return micros


def _date(type_: Type, value: Any) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
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

    Accepts ISO 8601 text (no zone means UTC) and integer milliseconds since 1970.
    """
    if value is None:
        return None, ""
    if isinstance(value, dt.datetime):
        moment = value
    elif isinstance(value, int) and not isinstance(value, bool):
        if not -62_135_596_800_000 <= value < 253_402_300_800_000:
            return None, f"{_short(value)} ms is outside the years 1 to 9999"
        return value * 1000, ""
    elif isinstance(value, str):
        try:
            moment = dt.datetime.fromisoformat(value)
        except ValueError:
            return None, f"{_short(value)} is no ISO 8601 time"
    else:
        return None, f"{_short(value)} is no time"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    micros = (moment - _EPOCH) // dt.timedelta(microseconds=1)
    return micros // 1000 * 1000, ""


def to_integer(value: Any) -> tuple[int | None, str]:
    """Return a 64-bit integer, or what is wrong."""
    if value is None:
        return None, ""
    try:
        return _whole(Type("long"), value), ""
    except _DoesNotFit as error:
        return None, error.detail


def to_text(value: Any) -> str | None:
    """Return an id as text: numbers become their digits."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _wrong(type_: Type, value: Any) -> _DoesNotFit:
    return _DoesNotFit(Reason.WRONG_TYPE, f"{_short(value)} is no {type_}")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
