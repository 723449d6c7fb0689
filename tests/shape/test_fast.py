"""Which events take the fast path; one that does not fit goes to the scalar path alone."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

import questlog.shape
from questlog.log import Entry
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.load import load_plan, parse_plan
from questlog.record import encode_record
from questlog.shape import BLOCK, Shaped, shape
from support.paths import ROOT

PLAN = parse_plan(
    """
[game]
name = "fast"

[events.buy]
table = "things"
[events.buy.fields]
sword = { type = "string", required = true, max_length = 20, aliases = ["blade"] }
price = { type = "decimal(12,2)", min = 0, default = 0 }
at = "timestamp"
tags = "list<string>"
place = "struct<x:int,y:int>"

[events.lose]
table = "things"
[events.lose.fields]
sword = { type = "string", required = true, max_length = 20 }
reason = { enum = ["stolen", "broken"] }
"""
)
BUY = (
    b'{"event_type":"buy","event_time":"2026-11-24T10:00:00.5Z","sword":"of dawn","price":9.99,"at":1790000000000,'
    b'"tags":["a",null],"place":{"x":1}}'
)
LOSE = b'{"event_type":"lose","player_id":7,"sword":"of dusk","reason":"stolen"}'
HEADERS = {"Host": "h", "User-Agent": "ab"}


@pytest.fixture
def scalar(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the events that took the scalar path."""
    validated: list[bytes] = []
    real = questlog.shape._Batch._validate

    def validate(self: Any, index: int, entry: Entry, arrival: Any) -> None:
        validated.append(arrival.raw)
        real(self, index, entry, arrival)

    monkeypatch.setattr(questlog.shape._Batch, "_validate", validate)
    return validated


def entry(offset: int, event: bytes, **more: Any) -> Entry:
    record = encode_record(event, id=f"id-{offset}", received_ms=1_790_000_000_000 + offset, headers=HEADERS, **more)
    return Entry(0, offset, record, 0)


def slowly(entries: list[Entry], plan: Any = PLAN) -> Shaped:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questlog.shape, "FAST_FROM", 2**62)
        return shape(entries, plan)


def test_plain_events_take_the_fast_path(scalar: list[bytes]) -> None:
    """Text, numbers, times, lists, structs, defaults, two types in one table: the fast path takes them all."""
    entries = [entry(i, (BUY, LOSE)[i % 2]) for i in range(BLOCK + 100)]
    shaped = shape(entries, PLAN)
    assert scalar == []
    assert shaped.count("things") == len(entries)
    assert shaped.tables["things"].column("event_id").to_pylist() == [f"id-{i}" for i in range(len(entries))]
    assert shaped.tables["things"].equals(slowly(entries).tables["things"])


def test_only_events_that_do_not_fit_leave_the_fast_path(scalar: list[bytes]) -> None:
    old = b'{"event_type":"buy","blade":"of dawn"}'
    bad = b'{"event_type":"buy","sword":"of dawn","price":9.999}'
    other = b'{"event_type":"buy","sword":"of dawn","place":{"z":1}}'
    late = b'{"event_type":"buy","sword":"of dawn","at":"10000-01-01"}'
    entries = [entry(i, {50: old, 60: bad, 70: other, 80: late}.get(i, BUY)) for i in range(100)]
    shaped = shape(entries, PLAN)
    assert sorted(scalar) == sorted([old, bad, other, late])
    assert shaped.count("things") == 97
    assert shaped.tables["things"].column("event_id").to_pylist()[50] == "id-50"
    assert shaped.tables[QUARANTINE_TABLE].column("field").to_pylist() == ["price", "place.z", "at"]


def test_a_client_newer_than_the_plan_stays_on_the_fast_path(scalar: list[bytes]) -> None:
    """Members that are not in the plan are kept, byte for byte, on the fast path."""
    newer = b'{"event_type":"buy","color":"r\\u0065d","sword":"of dawn","weight": {"kg":1.50}}'
    entries = [entry(i, (BUY, newer, LOSE)[i % 3]) for i in range(300)]
    shaped = shape(entries, PLAN)
    assert scalar == []
    rescued = shaped.tables["things"].column("_rescued").to_pylist()
    assert rescued[:3] == [None, '{"color":"r\\u0065d","weight":{"kg":1.50}}', None]
    assert shaped.tables["things"].equals(slowly(entries).tables["things"])


def test_ids_that_clients_chose_stay_on_the_fast_path(scalar: list[bytes]) -> None:
    """Only the second of two events with one id leaves it: it is a duplicate."""
    entries = [entry(i, BUY, client_id=True) for i in range(100)]
    twice = [*entries, Entry(1, 0, entries[7].value, 0)]
    shaped = shape(twice, PLAN)
    assert (shaped.duplicates, dict(shaped.repeated), scalar) == (1, {"buy": 1}, [])
    assert shaped.count("things") == len(shaped.seen) == 100


def test_committed_records_are_skipped_by_whole_columns() -> None:
    entries = [entry(i, (BUY, LOSE)[i % 2]) for i in range(100)]
    shaped = shape(entries, PLAN, committed={"things": {0: 90}})
    assert (shaped.committed, shaped.count("things")) == (90, 10)
    assert shaped.tables["things"].column("event_id").to_pylist() == [f"id-{i}" for i in range(90, 100)]


def test_real_players_events_take_the_fast_path(scalar: list[bytes]) -> None:
    """5,832 events of a real game: types that depend on several members, fields in a nested object."""
    plan = load_plan(ROOT / "examples" / "waves" / "plan.toml")
    with gzip.open(ROOT / "examples" / "waves" / "waves.jsonl.gz") as file:
        entries = [entry(i, line.rstrip(b"\n")) for i, line in enumerate(file)]
    shaped = shape(entries, plan)
    assert sum(table.num_rows for table in shaped.tables.values()) == 5_832
    assert len(scalar) < 60
    scalar.clear()
    by_scalar_path = slowly(entries, plan)
    assert len(scalar) == 5_832
    assert {name: t.to_pylist() for name, t in shaped.tables.items()} == {
        name: t.to_pylist() for name, t in by_scalar_path.tables.items()
    }
