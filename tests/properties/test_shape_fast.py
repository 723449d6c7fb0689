"""The fast path makes exactly the rows of the careful path, for any plan and anything in the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from arrivals import Arrivals, arrivals, whole
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import questlog.shape
from questlog.shape import shape

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@contextmanager
def fast_from(records: int, block: int = 4_096) -> Iterator[None]:
    """Take the fast path for batches of *records* and more, *block* records at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questlog.shape, "FAST_FROM", records)
        patch.setattr(questlog.shape.fast, "BLOCK", block)
        patch.setattr(questlog.shape.fast, "_CHUNK", max(1, block // 2))
        yield


def assert_same(arrived: Arrivals, block: int = 4_096) -> None:
    """Shape twice, once on each path, and compare every value, count and order."""
    known = {"mine": (9, 9, 1_790_000_000_000)}
    found = []
    for records in (0, 2**62):
        with fast_from(records, block):
            found.append(
                whole(shape(arrived.entries, arrived.plan, held=arrived.held, gaps=arrived.gaps, seen=known.get))
            )
    assert found[0] == found[1]


@settings(max_examples=700, deadline=None, suppress_health_check=SLOW)
@given(arrivals(), st.sampled_from((2, 5, 4_096)))
def test_both_paths_agree_on_everything(arrived: Arrivals, block: int) -> None:
    """Rows, their order, quarantine with its reasons and words, duplicates, what is held and what was seen."""
    assert_same(arrived, block)
