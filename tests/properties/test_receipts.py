"""What a receipt says at once is what landing will find."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from questlog.accept import TOO_LARGE, receive
from questlog.log import Entry
from questlog.record import decode_record
from questlog.shape import QUARANTINE, describe, glance, shape
from support.arrival_strategies import NOW_MS, Arrivals, arrivals

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
any_size = settings(max_examples=300, deadline=None, suppress_health_check=SLOW)


def events_of(arrived: Arrivals) -> list[bytes]:
    """Return the bytes of the events, as a sender would send them."""
    found = [decode_record(entry.value) for entry in arrived.entries]
    return [
        entry.value if record is None else record.raw() for record, entry in zip(found, arrived.entries, strict=True)
    ]


@any_size
@given(arrivals(), st.sampled_from(("quarantine", "reject")))
def test_every_event_has_one_receipt_and_it_is_true(arrived: Arrivals, mode: str) -> None:
    plan = replace(
        arrived.plan,
        version=arrived.plan.version + mode,
        events={name: replace(event, mode=mode if event.mode == "quarantine" else event.mode)
                for name, event in arrived.plan.events.items()},
    )  # fmt: skip
    events = events_of(arrived)
    accepted = receive(events, plan, received_ms=NOW_MS, kept={})
    outcomes = Counter(receipt.outcome for receipt in accepted.receipts)
    assert len(events) == outcomes.total()
    assert len(events) - outcomes["rejected"] == len(accepted.records)
    shaped = shape([Entry(1, n, record, NOW_MS) for n, record in enumerate(accepted.records)], plan)
    assert outcomes["duplicate"] == shaped.duplicates
    assert outcomes["quarantined"] == shaped.count(QUARANTINE)
    assert outcomes["accepted"] == sum(t.num_rows for name, t in shaped.tables.items() if name != QUARANTINE)
    landed = {i: name for name, table in shaped.tables.items() for i in table.column("event_id").to_pylist()}
    for receipt in accepted.receipts:
        if receipt.outcome in ("accepted", "quarantined"):
            assert (receipt.outcome == "quarantined") is (landed[receipt.event_id] == QUARANTINE)


@any_size
@given(arrivals())
def test_a_glance_never_takes_what_the_careful_path_refuses(arrived: Arrivals) -> None:
    for event in events_of(arrived):
        seen = glance(event, arrived.plan)
        if seen is not None:
            [record] = receive([event], arrived.plan, received_ms=NOW_MS, kept={}).records
            judged = describe(record, arrived.plan)
            assert (None, seen[0]) == (judged.reject, judged.event)


def test_an_event_beyond_the_limit_is_rejected_and_never_recorded() -> None:
    from questlog.plan import Plan

    accepted = receive([b"{}" * 10, b"{}"], Plan("g", "1"), received_ms=NOW_MS, kept={}, max_event_bytes=10)
    assert [(receipt.outcome, receipt.reason) for receipt in accepted.receipts] == [
        ("rejected", TOO_LARGE),
        ("quarantined", "no_event_type"),
    ]
    assert len(accepted.records) == 1
