"""A receipt reports at once what landing finds later."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from questlog.accept import TOO_LARGE, accept, accept_described, can_reject
from questlog.log import Entry
from questlog.plan import Event, Plan
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.record import decode_record
from questlog.shape import precheck, shape, validate, validate_entry
from support.arrival_strategies import NOW_MS, Arrivals, Sender, arrivals, plans

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
any_size = settings(max_examples=300, suppress_health_check=SLOW)


def events_of(arrived: Arrivals) -> list[bytes]:
    """Return the bytes of the events as a client would send them."""
    records = [decode_record(entry.value) for entry in arrived.entries]
    return [
        entry.value if record is None else record.raw() for record, entry in zip(records, arrived.entries, strict=True)
    ]


@st.composite
def hostile(draw: st.DrawFn) -> tuple[Plan, bytes]:
    """Return a plan and the bytes of one event: as sent, cut, spliced, spaced, or any bytes at all."""
    plan, seed = draw(plans()), draw(st.integers(0, 1 << 32))
    event, chance = Sender(plan, seed).event(), random.Random(seed)
    at = chance.randrange(len(event) + 1)
    cut = draw(st.sampled_from(("whole", "spaced", "lines", "head", "spliced", "any")))
    junk = draw(
        st.binary(max_size=12) | st.sampled_from((b"\xff", b"\n", b"\x00", b"[" * 65, b"9" * 4400, b"\xed\xa0\x80"))
    )
    return plan, {
        "whole": event,
        "spaced": b" \t" + event + b"\r ",
        "lines": b"\n" + event + b"\n",
        "head": event[:at],
        "spliced": event[:at] + junk + event[at:],
        "any": junk,
    }[cut]


@settings(any_size, max_examples=1000)
@given(hostile())
def test_a_receipt_equals_the_verdict_on_the_stored_record(sent: tuple[Plan, bytes]) -> None:
    """Accept validates the bytes that were sent; landing validates the record they were encoded in."""
    plan, raw = sent
    verdict = validate(raw, plan)
    accepted = accept([raw], plan, received_ms=NOW_MS)
    (receipt,) = accepted.receipts
    is_rejected = verdict.reject is not None and verdict.event is not None and verdict.event.mode == "reject"
    assert (receipt.outcome == "rejected") is is_rejected
    for event in (accepted, accept([raw], replace(plan, events=_lenient(plan)), received_ms=NOW_MS)):
        for record in event.records:
            stored = validate_entry(Entry(0, 0, record, NOW_MS), plan)
            assert (verdict.event, verdict.claimed, verdict.reject) == (stored.event, stored.claimed, stored.reject)
    if verdict.reject is None:
        assert (receipt.outcome, receipt.reason, receipt.field, receipt.detail) == ("accepted", "", "", "")
    else:
        why = verdict.reject
        assert (why.reason.value, why.field, why.detail) == (receipt.reason, receipt.field, receipt.detail)


def _lenient(plan: Plan) -> dict[str, Event]:
    return {name: replace(event, mode="quarantine") for name, event in plan.events.items()}


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
    accepted = accept(events, plan, received_ms=NOW_MS)
    outcomes = Counter(receipt.outcome for receipt in accepted.receipts)
    assert len(events) == outcomes.total()
    assert len(events) - outcomes["rejected"] == len(accepted.records)
    shaped = shape([Entry(1, n, record, NOW_MS) for n, record in enumerate(accepted.records)], plan)
    assert outcomes["duplicate"] == shaped.duplicates
    assert outcomes["quarantined"] == shaped.count(QUARANTINE_TABLE)
    assert outcomes["accepted"] == sum(t.num_rows for name, t in shaped.tables.items() if name != QUARANTINE_TABLE)
    landed = {i: name for name, table in shaped.tables.items() for i in table.column("event_id").to_pylist()}
    for receipt in accepted.receipts:
        if receipt.outcome in ("accepted", "quarantined"):
            assert (receipt.outcome == "quarantined") is (landed[receipt.event_id] == QUARANTINE_TABLE)


@any_size
@given(arrivals())
def test_without_validation_only_rejected_events_are_left_out(arrived: Arrivals) -> None:
    events, plan = events_of(arrived), arrived.plan
    full = accept(events, plan, received_ms=NOW_MS)
    brief = accept(events, plan, received_ms=NOW_MS, validate=False)
    rejected = [receipt.outcome == "rejected" for receipt in full.receipts]
    assert rejected == [receipt.outcome == "rejected" for receipt in brief.receipts]
    assert {"accepted", "rejected"} >= {receipt.outcome for receipt in brief.receipts}
    stored = [[decode_record(record).raw() for record in each.records] for each in (full, brief)]  # type: ignore[union-attr]
    assert stored[0] == stored[1]
    for event in events:
        receipt, record = accept_described(
            event, plan, event_id="mine", received_ms=NOW_MS, headers={}, can_reject=can_reject(plan)
        )
        assert bool(record) is (receipt.outcome == "accepted")


@any_size
@given(arrivals())
def test_the_precheck_never_passes_an_event_that_the_scalar_path_refuses(arrived: Arrivals) -> None:
    for event in events_of(arrived):
        passed = precheck(event, arrived.plan)
        if passed is not None:
            verdict = validate(event, arrived.plan)
            assert (None, passed[0]) == (verdict.reject, verdict.event)


def test_an_event_beyond_the_limit_is_rejected_and_never_recorded() -> None:
    accepted = accept([b"{}" * 10, b"{}"], Plan("g", "1"), received_ms=NOW_MS, max_event_bytes=10)
    assert [(receipt.outcome, receipt.reason) for receipt in accepted.receipts] == [
        ("rejected", TOO_LARGE),
        ("quarantined", "no_event_type"),
    ]
    assert len(accepted.records) == 1
