"""Lists of decoded values -> Arrow columns, exactly as the scalar path fills them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from questlog.plan.columns import arrow_type
from questlog.plan.values import EXACT_DIGITS
from questlog.record import DEPTH_LIMIT
from questlog.shape.fields import LONGEST_WAIT_MICROS, FieldRule
from questlog.shape.read import is_null, read_value
from questlog.types import LAST_MICROS, DoesNotFit, to_timestamp

Build = Callable[[list[Any]], pa.Array]
TIMESTAMP = pa.timestamp("us")
EXACT_SCALE = EXACT_DIGITS
_SHALLOW = DEPTH_LIMIT // 2
"""Brackets allowed in one field: with those around it they stay below the limit of an event."""


class NeedsScalarPath(Exception):
    """Some values must go through the scalar path; `positions` are their places in the column."""

    def __init__(self, positions: Iterable[int]) -> None:
        super().__init__()
        self.positions = list(positions)


def unchanged(type_: pa.DataType) -> Build:
    """Return the builder of a column that holds decoded values unchanged."""
    return partial(pa.array, type=type_)


def constant(text: str, count: int) -> pa.Array:
    """Return a column of *count* times *text*."""
    return pa.repeat(pa.scalar(text, pa.string()), count)


def microseconds(milliseconds: Sequence[int | None]) -> pa.Array:
    """Return milliseconds since 1970 as timestamps."""
    return pc.multiply(pa.array(milliseconds, pa.int64()), 1000).view(TIMESTAMP)


def sent_times(of_events: pa.Array, of_requests: list[int | None]) -> pa.Array:
    """Return when events were sent: by their own field, or else by their request."""
    if not of_events.null_count or of_requests.count(None) == len(of_requests):
        return of_events
    return pc.coalesce(of_events, microseconds(of_requests))


def event_times(device: pa.Array, sent: pa.Array, received: pa.Array) -> pa.Array:
    """Return when events happened, by the rule of `fields.event_time`."""
    uncorrected = pc.coalesce(device, received) if device.null_count else device
    if sent.null_count == len(sent):
        return uncorrected
    waited = pc.subtract(sent.view(pa.int64()), device.view(pa.int64()))
    is_possible = pc.and_(pc.greater_equal(waited, 0), pc.less_equal(waited, LONGEST_WAIT_MICROS))
    corrected = pc.subtract(received.view(pa.int64()), waited)
    return pc.if_else(pc.fill_null(is_possible, False), corrected, uncorrected.view(pa.int64())).view(TIMESTAMP)


def clock_skews(sent: pa.Array, received: pa.Array) -> pa.Array:
    """Return milliseconds from the time sent, by the sender's clock, to the time received, by ours."""
    return pc.divide(pc.subtract(received.view(pa.int64()), sent.view(pa.int64())), 1000)


def identifiers(values: list[Any]) -> pa.Array:
    """Return text unchanged and whole numbers as their digits."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return pa.array([str(v) if isinstance(v, int) else v for v in values], pa.string())


def header_columns(kept: Sequence[Mapping[str, str]], codes: list[int], columns: Iterable[str]) -> dict[str, pa.Array]:
    """Return a column per kept header. *codes* number the distinct sets of headers, of which there are few."""
    indices = pa.array(codes, pa.int32())
    return {name: pa.array([each.get(name) for each in kept], pa.string()).take(indices) for name in columns}


def texts(raws: list[msgspec.Raw]) -> pa.Array:
    """Return JSON values as they were sent. Values that are not UTF-8 are reported by `malformed_events`."""
    offsets = array("i", accumulate(map(len, raws), initial=0))
    return pa.StringArray.from_buffers(len(raws), pa.py_buffer(offsets), pa.py_buffer(b"".join(raws)))


def malformed_events(raws: list[msgspec.Raw], sent: pa.Array, *, check_depth: bool) -> set[int]:
    """Return the positions of values that are not UTF-8 or that may be nested too deeply."""
    malformed: set[int] = set()
    try:
        sent.validate(full=True)
    except pa.ArrowInvalid:
        malformed = {position for position, raw in enumerate(raws) if not _is_utf8(bytes(raw))}
    if check_depth:
        binary = sent.view(pa.binary())
        brackets = pc.add(pc.count_substring(binary, b"{"), pc.count_substring(binary, b"["))
        if pc.max(brackets).as_py() > DEPTH_LIMIT:
            malformed |= {position for position, count in enumerate(brackets.to_pylist()) if count > DEPTH_LIMIT}
    return malformed


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def timestamps(values: list[Any]) -> pa.Array:
    """Return ISO 8601 texts, or milliseconds since 1970, as timestamps in whole milliseconds."""
    column = _timestamps_at_once(values)
    if column is not None:
        return column
    one_by_one = [to_timestamp(value) for value in values]
    bad = [position for position, (_, problem) in enumerate(one_by_one) if problem]
    if bad:
        raise NeedsScalarPath(bad)
    return pa.array([micros for micros, _ in one_by_one], pa.int64()).view(TIMESTAMP)


def _timestamps_at_once(values: list[Any]) -> pa.Array | None:
    """Return the column if all values are texts of one form, after 1970, with at most microseconds."""
    try:
        sent = pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return None
    if sent.null_count == len(sent):
        return sent.cast(TIMESTAMP)
    for type_ in (pa.timestamp("us", "UTC"), TIMESTAMP):  # all with a zone, or all without
        try:
            micros = sent.cast(type_).view(pa.int64())
        except pa.ArrowInvalid:
            continue
        bounds = pc.min_max(micros).as_py()
        if bounds["min"] < 0 or bounds["max"] > LAST_MICROS + 999:
            return None
        return pc.multiply(pc.divide(micros, 1000), 1000).view(TIMESTAMP)
    return None


def decimals(rule: FieldRule) -> Build:
    """Return the builder of a decimal column from doubles, and from texts one by one.

    A double stands for the number that was sent if that number has at most 15 digits. Then it is the double nearest
    to n / 10^scale with n below 10^15, a division that rounds once, so that equality proves it.
    """
    type_ = rule.field.type
    arrow = pa.decimal128(type_.precision, type_.scale)
    factor, limit = float(10**type_.scale), float(10 ** min(EXACT_DIGITS, type_.precision))
    with localcontext(prec=100):
        low = None if rule.low is None else math.ceil(rule.low * 10**type_.scale)
        high = None if rule.high is None else math.floor(rule.high * 10**type_.scale)

    def build(values: list[Any]) -> pa.Array:
        if any(isinstance(value, str) for value in values):
            return mixed(values)
        sent = pa.array(values, pa.float64())
        whole = pc.round(pc.multiply(sent, factor))
        good = pc.and_(pc.less(pc.abs(whole), limit), pc.equal(pc.divide(whole, factor), sent))
        if low is not None:
            good = pc.and_(good, pc.greater_equal(whole, float(low)))
        if high is not None:
            good = pc.and_(good, pc.less_equal(whole, float(high)))
        if pc.all(good).as_py() is False:
            raise NeedsScalarPath(position for position, each in enumerate(good.to_pylist()) if each is False)
        digits = whole.cast(pa.int64()).cast(pa.decimal128(19, 0))
        return pa.Array.from_buffers(arrow, len(digits), digits.buffers(), digits.null_count, digits.offset)

    def mixed(values: list[Any]) -> pa.Array:
        numbers = build([None if isinstance(value, str) else value for value in values])
        exact: list[Decimal | None] = [None] * len(values)
        bad = []
        for position, value in enumerate(values):
            if isinstance(value, str):
                try:
                    exact[position] = rule.convert(value)
                except DoesNotFit:
                    bad.append(position)
        if bad:
            raise NeedsScalarPath(bad)
        return pc.coalesce(numbers, pa.array(exact, arrow))

    return build


def structs(slots: Sequence[str], members: Sequence[pa.Field]) -> Build:
    """Return the builder of a struct column from objects that have each member as an attribute."""
    getters = [attrgetter(slot) for slot in slots]

    def build(values: list[Any]) -> pa.Array:
        arrays = [
            pa.array([None if value is None else get(value) for value in values], member.type)
            for get, member in zip(getters, members, strict=True)
        ]
        return pa.StructArray.from_arrays(arrays, fields=members, mask=pa.array([value is None for value in values]))

    return build


def with_default(build: Build, rule: FieldRule) -> Build:
    """Return *build* with the plan's default in place of missing values."""

    def filled(values: list[Any]) -> pa.Array:
        column = build(values)
        if not column.null_count:
            return column
        return pc.fill_null(column, pa.array([rule.default], column.type)[0])

    return filled


def one_by_one(rule: FieldRule) -> Build:
    """Return the builder of a column whose values are converted one by one, as on the scalar path."""
    arrow = arrow_type(rule.field.type)

    def build(values: list[Any]) -> pa.Array:
        converted: list[Any] = []
        bad = []
        for position, raw in enumerate(values):
            if raw is None or is_null(raw):
                converted.append(rule.default)
                if rule.default is None and rule.field.required:
                    bad.append(position)
                continue
            sent = bytes(raw)
            try:
                if sent.count(b"{") + sent.count(b"[") > _SHALLOW:
                    raise ValueError("it may be nested too deeply")
                converted.append(rule.convert(read_value(raw)))
            except (DoesNotFit, ValueError, msgspec.MsgspecError):
                bad.append(position)
        if bad:
            raise NeedsScalarPath(bad)
        return pa.array(converted, arrow)

    return build
