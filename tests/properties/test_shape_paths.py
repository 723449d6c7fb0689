"""The fast path produces exactly the rows of the scalar path, for any plan and any log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import questlog.shape
from questlog.shape import fast, shape
from questlog.shape.fast import columns, decoders, lenient
from support.arrival_strategies import Arrivals, arrivals, whole

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@contextmanager
def fast_from(records: int, block: int = 4_096) -> Iterator[None]:
    """Use the fast path for batches of at least *records*, in blocks of *block*."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questlog.shape, "FAST_FROM", records)
        patch.setattr(questlog.shape, "BLOCK", block)
        patch.setattr(questlog.shape.fast, "_CHUNK", max(1, block // 2))
        yield


def assert_same(arrived: Arrivals, block: int = 4_096) -> None:
    """Shape on both paths, and compare every value, count and order."""
    seen = {"mine": (9, 9, 1_790_000_000_000)}
    results = []
    for records in (0, 2**62):
        with fast_from(records, block):
            results.append(
                whole(shape(arrived.entries, arrived.plan, committed=arrived.held, gaps=arrived.gaps, seen=seen.get))
            )
    assert results[0] == results[1]


@settings(max_examples=700, suppress_health_check=SLOW)
@given(arrivals(), st.sampled_from((2, 5, 4_096)))
def test_both_paths_agree_on_everything(arrived: Arrivals, block: int) -> None:
    """Rows, their order, quarantine reasons and details, duplicates, committed counts and seen ids are equal."""
    assert_same(arrived, block)


# -- the test above, tested ------------------------------------------------------------------------


def _no_default(build: Any, rule: Any) -> Any:
    return build


def _any_decimals(rule: Any) -> Any:
    type_ = pa.decimal128(rule.field.type.precision, rule.field.type.scale)
    return lambda values: pa.array(values, pa.float64()).cast(type_, safe=False)


def _nothing_malformed(raws: Any, sent: Any, *, check_depth: bool) -> set[int]:
    return set()


def _micros(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string()).cast(pa.timestamp("us", "UTC")).view(columns.TIMESTAMP)
    except (pa.ArrowInvalid, TypeError):
        return REAL_TIMESTAMPS(values)


def _whole_without_bounds(rule: Any, row: Any) -> Any:
    return REAL_WHOLE(replace(rule, low=None, high=None), row)


def _without_aliases(names: Any, decoder: Any, sent: bytes) -> Any:
    return REAL_LEFT_OVER(names, replace(decoder, aliases=frozenset()), sent)


REAL_LEFT_OVER = lenient.unknown_members
REAL_TIMESTAMPS, REAL_WHOLE = columns.timestamps, decoders._whole
MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "unknown members are dropped": (decoders, "strict_objects", lambda names: lambda path: False),
    "a default is forgotten": (columns, "with_default", _no_default),
    "decimals are rounded": (columns, "decimals", _any_decimals),
    "neither UTF-8 nor depth is checked": (fast, "malformed_events", _nothing_malformed),
    "microseconds stay": (
        decoders, "_ENVELOPE", (("device_time", "event_time", int | str, _micros), *decoders._ENVELOPE[1:])
    ),
    "an event without a time has none": (fast, "event_times", lambda device, sent, received: device),
    "a clock is never corrected": (
        fast, "event_times", lambda device, sent, received: pc.coalesce(device, received)
    ),
    "a request's sent time is forgotten": (fast, "sent_times", lambda events, requests: events),
    "bounds are forgotten": (decoders, "_CONSTRAINED", {**decoders._CONSTRAINED, int: _whole_without_bounds}),
    "the type is guessed from the name alone": (
        decoders, "_is_tagged", lambda rules: "." not in rules.envelope.event_type
    ),
    "leftover members are not kept": (lenient, "as_json", lambda members: "{}"),
    "an old name counts as unknown": (fast, "unknown_members", _without_aliases),
    "one record in a block is lost": (fast.FastPath, "rows", lambda self, places, lines: ROWS(self, places, lines[1:])),
}  # fmt: skip
ROWS: Callable[..., Any] = fast.FastPath.rows


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_difference_between_the_paths_is_detected(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mutant is a mistake that a careless change could make; none may pass."""
    monkeypatch.setattr(*MUTANTS[mutant])
    monkeypatch.setattr(questlog.shape, "_compiled", {})  # a mutant's decoders must not outlive its test

    @settings(
        max_examples=10_000, suppress_health_check=list(HealthCheck), database=None, derandomize=True,
        phases=[Phase.generate],
    )  # fmt: skip
    @given(arrivals())
    def compare(arrived: Arrivals) -> None:
        questlog.shape._compiled.clear()
        assert_same(arrived)

    with pytest.raises((AssertionError, ValueError, ExceptionGroup)):
        compare()
