"""One JSON or TOML value -> one column value, or why it does not fit: structure here, scalars in `questlog.types`."""

from __future__ import annotations

import decimal
import re
from typing import Any

from questlog.errors import Reason
from questlog.types import SCALARS, DoesNotFit, Number, Type, out_of_range, short, wrong_type

EXACT_DIGITS = 15
"""A double distinguishes all decimal numbers of this many digits, so it is as exact as the digits."""
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def convert(type_: Type, value: Any) -> Any:
    """Return *value* as the Python value Arrow stores in a column of *type_*; raise `DoesNotFit`."""
    kind = type_.kind
    if kind in SCALARS:
        row = SCALARS[kind]
        return row.convert(row, value)
    if kind == "decimal":
        return _decimal(type_, value)
    if kind == "list":
        if not isinstance(value, list):
            raise wrong_type(type_, value)
        assert type_.item is not None
        return [_inner(type_.item, v, f"[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, dict):
        raise wrong_type(type_, value)
    if kind == "map":
        assert type_.item is not None
        return [(k, _inner(type_.item, v, f".{k}")) for k, v in value.items()]
    names = [name for name, _ in type_.fields]
    extra = next((k for k in value if k not in names), None)
    if extra is not None:
        raise DoesNotFit(Reason.WRONG_TYPE, "is not a member of the struct", f".{extra}")
    return {name: _inner(inner, value.get(name), f".{name}") for name, inner in type_.fields}


def _inner(type_: Type, value: Any, path: str) -> Any:
    if value is None:
        return None
    try:
        return convert(type_, value)
    except DoesNotFit as error:
        raise DoesNotFit(error.reason, error.detail, path + error.path) from None


def _decimal(type_: Type, value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong_type(type_, value)
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise wrong_type(type_, value)
    try:
        exact = _digits(value)
    except decimal.InvalidOperation:  # an exponent beyond all bounds
        raise out_of_range(type_, value) from None
    if not exact.is_finite() or (exact.adjusted() >= type_.precision - type_.scale and exact):
        raise out_of_range(type_, value)
    if exact and exact.adjusted() < -type_.scale:
        raise DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} has more than {type_.scale} decimals")
    with decimal.localcontext(prec=100):
        fitted = exact.quantize(decimal.Decimal(1).scaleb(-type_.scale), decimal.ROUND_DOWN)
    if fitted != exact:
        raise DoesNotFit(Reason.WRONG_TYPE, f"{short(value)} has more than {type_.scale} decimals")
    return fitted


def _digits(value: int | float | str) -> decimal.Decimal:
    """Return the intended number: a float's shortest form, or every digit as sent if there are more."""
    if not isinstance(value, float):
        return decimal.Decimal(value)
    shortest = decimal.Decimal(repr(float(value)))
    if isinstance(value, Number) and len(shortest.as_tuple().digits) > EXACT_DIGITS:
        return decimal.Decimal(value.text)
    return shortest


_LONG = SCALARS["long"]


def to_integer(value: Any) -> tuple[int | None, str]:
    """Return a 64-bit integer, or what is wrong."""
    if value is None:
        return None, ""
    try:
        return _LONG.convert(_LONG, value), ""
    except DoesNotFit as error:
        return None, error.detail


def to_text(value: Any) -> tuple[str | None, str]:
    """Return an identifier as text, or what is wrong: text stays, a number becomes its digits."""
    if value is None or isinstance(value, str):
        return value, ""
    if isinstance(value, Number):
        return value.text, ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), ""
    return None, f"{short(value)} is neither text nor a number"
