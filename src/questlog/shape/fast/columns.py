"""Lists of decoded values -> Arrow columns, exactly as the careful path fills them."""

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
from questlog.shape.fields import FieldRule
from questlog.shape.read import is_null, read_value
from questlog.shape.times import LONGEST_WAIT_MICROS
from questlog.types import LAST_MICROS, DoesNotFit, to_timestamp

Build = Callable[[list[Any]], pa.Array]
TIMESTAMP = pa.timestamp("us")
EXACT_SCALE = EXACT_DIGITS
_SHALLOW = DEPTH_LIMIT // 2
"""Brackets that one field may hold: with those around it they stay below the limit of an event."""


class Unusual(Exception):
    """Values that only the careful path can judge, by their positions in the column."""

    def __init__(self, positions: Iterable[int]) -> None:
        super().__init__()
        self.positions = list(positions)


def of(type_: pa.DataType) -> Build:
    """Return the builder of a column whose values are already right."""
    return partial(pa.array, type=type_)


def constant(text: str, count: int) -> pa.Array:
    """Return a column that holds *text* everywhere."""
    return pa.repeat(pa.scalar(text, pa.string()), count)


def microseconds(milliseconds: Sequence[int | None]) -> pa.Array:
    """Return milliseconds since 1970 as timestamps."""
    return pc.multiply(pa.array(milliseconds, pa.int64()), 1000).view(TIMESTAMP)


def sent_times(found: pa.Array, requests: list[int | None]) -> pa.Array:
    """Return when events were sent: as they say themselves, or else as their request says."""
    if not found.null_count or requests.count(None) == len(requests):
        return found
    return pc.coalesce(found, microseconds(requests))


def event_times(device: pa.Array, sent: pa.Array, received: pa.Array) -> pa.Array:
    """Return when events happened, as `times.event_time` says."""
    found = pc.coalesce(device, received) if device.null_count else device
    if sent.null_count == len(sent):
        return found
    waited = pc.subtract(sent.view(pa.int64()), device.view(pa.int64()))
    can_be = pc.and_(pc.greater_equal(waited, 0), pc.less_equal(waited, LONGEST_WAIT_MICROS))
    corrected = pc.subtract(received.view(pa.int64()), waited)
    return pc.if_else(pc.fill_null(can_be, False), corrected, found.view(pa.int64())).view(TIMESTAMP)


def clock_skews(sent: pa.Array, received: pa.Array) -> pa.Array:
    """Return milliseconds from when events were sent, by their clock, to when they were received, by ours."""
    return pc.divide(pc.subtract(received.view(pa.int64()), sent.view(pa.int64())), 1000)


def names(values: list[Any]) -> pa.Array:
    """Return text as it is and whole numbers as their digits."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return pa.array([str(v) if isinstance(v, int) else v for v in values], pa.string())


def header_columns(kept: Sequence[Mapping[str, str]], codes: list[int], columns: Iterable[str]) -> dict[str, pa.Array]:
    """Return a column per kept header: few different ones come again and again."""
    indices = pa.array(codes, pa.int32())
    return {name: pa.array([each.get(name) for each in kept], pa.string()).take(indices) for name in columns}


def texts(raws: list[msgspec.Raw]) -> pa.Array:
    """Return JSON values as they were sent. Where one is not UTF-8, see `odd_events`."""
    offsets = array("i", accumulate(map(len, raws), initial=0))
    return pa.StringArray.from_buffers(len(raws), pa.py_buffer(offsets), pa.py_buffer(b"".join(raws)))


def odd_events(raws: list[msgspec.Raw], sent: pa.Array, *, check_depth: bool) -> set[int]:
    """Return the positions of values that are not UTF-8, or that may nest too deep."""
    odd: set[int] = set()
    try:
        sent.validate(full=True)
    except pa.ArrowInvalid:
        odd = {position for position, raw in enumerate(raws) if not _is_utf8(bytes(raw))}
    if check_depth:
        binary = sent.view(pa.binary())
        brackets = pc.add(pc.count_substring(binary, b"{"), pc.count_substring(binary, b"["))
        if pc.max(brackets).as_py() > DEPTH_LIMIT:
            odd |= {position for position, count in enumerate(brackets.to_pylist()) if count > DEPTH_LIMIT}
    return odd


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def timestamps(values: list[Any]) -> pa.Array:
    """Return ISO 8601 texts, or milliseconds since 1970, as timestamps in whole milliseconds."""
    found = _timestamps_at_once(values)
    if found is not None:
        return found
    one_by_one = [to_timestamp(value) for value in values]
    bad = [position for position, (_, problem) in enumerate(one_by_one) if problem]
    if bad:
        raise Unusual(bad)
    return pa.array([micros for micros, _ in one_by_one], pa.int64()).view(TIMESTAMP)


def _timestamps_at_once(values: list[Any]) -> pa.Array | None:
    """Return the column if all values are texts of one kind after 1970, down to microseconds at most."""
    try:
        sent = pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return None
    if sent.null_count == len(sent):
        return sent.cast(TIMESTAMP)
    for type_ in (pa.timestamp("us", "UTC"), TIMESTAMP):  # with a zone each, or each without
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

    A double stands for the number that was sent if that has 15 digits at most, and only then is it the double
    nearest to its own decimals: n / 10^scale with n below 10^15 is rounded once, so equality proves it.
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
            raise Unusual(position for position, each in enumerate(good.to_pylist()) if each is False)
        digits = whole.cast(pa.int64()).cast(pa.decimal128(19, 0))
        return pa.Array.from_buffers(arrow, len(digits), digits.buffers(), digits.null_count, digits.offset)

    def mixed(values: list[Any]) -> pa.Array:
        numbers = build([None if isinstance(value, str) else value for value in values])
        found: list[Decimal | None] = [None] * len(values)
        bad = []
        for position, value in enumerate(values):
            if isinstance(value, str):
                try:
                    found[position] = rule.check(value)
                except DoesNotFit:
                    bad.append(position)
        if bad:
            raise Unusual(bad)
        return pc.coalesce(numbers, pa.array(found, arrow))

    return build


def structs(slots: Sequence[str], members: Sequence[pa.Field]) -> Build:
    """Return the builder of a struct column from objects that hold each member in its slot."""
    getters = [attrgetter(slot) for slot in slots]

    def build(values: list[Any]) -> pa.Array:
        arrays = [
            pa.array([None if value is None else get(value) for value in values], member.type)
            for get, member in zip(getters, members, strict=True)
        ]
        return pa.StructArray.from_arrays(arrays, fields=members, mask=pa.array([value is None for value in values]))

    return build


def with_default(build: Build, rule: FieldRule) -> Build:
    """Return *build* with the plan's default wherever nothing was sent."""

    def filled(values: list[Any]) -> pa.Array:
        found = build(values)
        if not found.null_count:
            return found
        return pc.fill_null(found, pa.array([rule.default], found.type)[0])

    return filled


def one_by_one(rule: FieldRule) -> Build:
    """Return the builder of a column whose values the careful path judges, each alone."""
    arrow = arrow_type(rule.field.type)

    def build(values: list[Any]) -> pa.Array:
        found: list[Any] = []
        bad = []
        for position, raw in enumerate(values):
            if raw is None or is_null(raw):
                found.append(rule.default)
                if rule.default is None and rule.field.required:
                    bad.append(position)
                continue
            sent = bytes(raw)
            try:
                if sent.count(b"{") + sent.count(b"[") > _SHALLOW:
                    raise ValueError("it may nest too deep")
                found.append(rule.check(read_value(raw)))
            except (DoesNotFit, ValueError, msgspec.MsgspecError):
                bad.append(position)
        if bad:
            raise Unusual(bad)
        return pa.array(found, arrow)

    return build
