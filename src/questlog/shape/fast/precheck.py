"""The fast path for one event when only a receipt is needed: is it certain to become a row?

A yes is always right; anything else is left to the scalar path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from decimal import localcontext
from functools import cached_property
from typing import Any

import msgspec

from questlog.errors import Reject
from questlog.plan import Event
from questlog.plan.values import EXACT_DIGITS
from questlog.record import NOT_A_RECORD, is_too_deep
from questlog.shape.fast import FastPath
from questlog.shape.fast.columns import timestamps
from questlog.shape.fast.decoders import field_decoder
from questlog.shape.fields import FieldRule
from questlog.shape.read import is_null, read_value
from questlog.types import DoesNotFit, to_timestamp

fromisoformat = datetime.fromisoformat
_Check = tuple[Callable[[Any], Any], Callable[[Any], bool]]
"""How to get a value from a decoded event, and whether it is certain to fit."""


class Precheck:
    """Prechecks events of one plan."""

    def __init__(self, fast: FastPath) -> None:
        self._fast = fast
        self._checks: dict[str, list[_Check]] = {}
        for name, decoder in fast.decoders.items():
            rules = {rule.field.name: rule for rule in fast.rules.events[name].fields}
            checks: list[_Check] = [(each.get, _is_time) for each in decoder.envelope if each.build is timestamps]
            for column in decoder.columns:
                check = _check_of(rules[column.name])
                if check is not None:
                    checks.append((column.get, check))
            self._checks[name] = checks

    def check(self, raw: bytes) -> tuple[Event, str | None] | None:
        """Return the type and the chosen id of an event that is certain to become a row, otherwise None."""
        try:
            name, body = self._decode(raw)
            if not name or not (raw.isascii() or raw.decode()) or is_too_deep(raw):
                return None
            for get, check in self._checks[name]:
                if not check(get(body)):
                    return None
        except NOT_A_RECORD:
            return None
        decoder = self._fast.decoders[name]
        return decoder.event, decoder.event_id(body)

    def _decode(self, raw: bytes) -> tuple[str, Any]:
        if self._fast.tagged is not None:
            body = self._fast.tagged.decoder.decode(raw)
            return self._names.get(type(body), ""), body
        if self._fast.type_decoder is None:
            return "", None
        values = self._fast.type_decoder.values(self._fast.type_decoder.decoder.decode(raw))
        rules = self._fast.rules
        event = rules.find(values.get, values.get(rules.envelope.event_type))
        if isinstance(event, Reject) or event.name not in self._fast.decoders:
            return "", None
        return event.name, self._fast.decoders[event.name].decoder.decode(raw)

    @cached_property
    def _names(self) -> dict[type, str]:
        assert self._fast.tagged is not None
        return {type_: name for name, type_ in self._fast.tagged.classes.items()}


def _is_time(value: Any) -> bool:
    if type(value) is str:
        try:
            if 1 < fromisoformat(value).year < 9999:  # no time zone can move it out of the years 1 to 9999
                return True
        except ValueError:
            return False
    return not to_timestamp(value)[1]


def _check_of(rule: FieldRule) -> Callable[[Any], bool] | None:
    """Return the check that decoding does not make, or None if decoding makes them all."""
    type_, _ = field_decoder(rule)
    if type_ is msgspec.Raw:
        return lambda raw: _fits(rule, raw)
    if rule.field.type.kind == "timestamp":
        return _is_time
    if rule.field.type.kind == "decimal":
        return _decimal(rule)
    return None


def _fits(rule: FieldRule, raw: msgspec.Raw | None) -> bool:
    """Return whether a value that decoding left raw fits its field."""
    if raw is None or is_null(raw):
        return rule.default is not None or not rule.field.required
    try:
        rule.convert(read_value(raw))
    except DoesNotFit:
        return False
    return True


def _decimal(rule: FieldRule) -> Callable[[Any], bool]:
    """Return a check that a double stands for a decimal of the field; `columns.decimals` has the proof."""
    type_ = rule.field.type
    factor, limit = 10**type_.scale, 10 ** min(EXACT_DIGITS, type_.precision)
    with localcontext(prec=100):
        low = -limit if rule.low is None else math.ceil(rule.low * factor)
        high = limit if rule.high is None else math.floor(rule.high * factor)

    def check(value: float | str | None) -> bool:
        if not isinstance(value, float):
            return value is None or _is_decimal(rule, value)
        if not abs(value) * factor < limit:
            return False
        whole = round(value * factor)
        return bool(abs(whole) < limit and low <= whole <= high and whole / factor == value)

    return check


def _is_decimal(rule: FieldRule, text: str) -> bool:
    try:
        rule.convert(text)
    except DoesNotFit:
        return False
    return True
