"""`shape` keeps its promises for any plan and any log."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from questlog.errors import Reason
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.shape import Occurrence, shape
from support.arrival_strategies import Arrivals, arrivals, exact

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
any_size = settings(max_examples=200, suppress_health_check=SLOW)


@any_size
@given(arrivals())
def test_every_record_ends_in_exactly_one_place(arrived: Arrivals) -> None:
    """Accepted = rows + quarantined + duplicates + already committed; a gap is one quarantine row."""
    shaped = shape(arrived.entries, arrived.plan, committed=arrived.held, gaps=arrived.gaps)
    rows = sum(table.num_rows for table in shaped.tables.values())
    assert rows + shaped.duplicates + shaped.committed == len(arrived.entries) + len(arrived.gaps)
    assert sum(shaped.repeated.values()) == shaped.duplicates
    for name, table in shaped.tables.items():
        table.validate(full=True)
        ids = table.column("event_id").to_pylist()
        assert None not in ids
        if name == QUARANTINE_TABLE:
            assert set(table.column("reason").to_pylist()) <= {reason.value for reason in Reason}


@any_size
@given(arrivals(), st.data())
def test_the_batch_size_never_changes_a_row(arrived: Arrivals, data: st.DataObject) -> None:
    """The number of records a lander reads at a time does not affect the tables."""
    whole = shape(arrived.entries, arrived.plan, committed=arrived.held)
    occurrences: dict[str, Occurrence] = {}
    parts: dict[str, list[pa.Table]] = {}
    duplicates = held = start = 0
    while start < len(arrived.entries):
        end = data.draw(st.integers(start + 1, len(arrived.entries)))
        shaped = shape(arrived.entries[start:end], arrived.plan, committed=arrived.held, seen=occurrences.get)
        occurrences.update({event_id: (partition, offset, ms) for event_id, partition, offset, ms in shaped.seen})
        for name, table in shaped.tables.items():
            parts.setdefault(name, []).append(table)
        duplicates, held, start = duplicates + shaped.duplicates, held + shaped.committed, end
    assert exact({name: pa.concat_tables(tables) for name, tables in parts.items()}) == exact(whole.tables)
    assert (duplicates, held) == (whole.duplicates, whole.committed)
    assert occurrences == {event_id: tuple(place) for event_id, *place in whole.seen}


@any_size
@given(arrivals())
def test_a_record_becomes_the_same_row_alone_and_in_a_batch(arrived: Arrivals) -> None:
    """Unless one can be a duplicate of another, a record has the same result in a batch and alone."""
    plan = replace(arrived.plan, dedup_hours=-1.0, version="no-window")
    alone: dict[str, list[pa.Table]] = {}
    for entry in arrived.entries:
        for name, table in shape([entry], plan).tables.items():
            alone.setdefault(name, []).append(table)
    together = shape(arrived.entries, plan)
    assert exact(together.tables) == exact({name: pa.concat_tables(tables) for name, tables in alone.items()})
