"""Which snapshots may be forgotten: whoever does it, however late, and however clocks jump, no position goes."""

from __future__ import annotations

import random
from typing import Any

from questlog.land.spark.states import STATE, Floor, floor_of, floor_state, outlived, states, text_of


def snapshot(number: int, ms: int, floor: Floor | None) -> dict[str, Any]:
    said = {} if floor is None else {STATE: text_of(floor_state(floor))}
    return {"snapshot-id": number, "timestamp-ms": ms, "summary": {"operation": "append", **said}}


def table(*snapshots: dict[str, Any]) -> dict[str, Any]:
    return {"snapshots": list(snapshots), "current-snapshot-id": snapshots[-1]["snapshot-id"]}


def test_what_a_later_snapshot_says_too_may_go_and_the_later_one_stays_however_old() -> None:
    one, two = Floor({0: 5}, {"a": 5}, {"records": 5}, 1, "p"), Floor({0: 9, 1: 2}, {"a": 9}, {"records": 11}, 1, "p")
    found = table(snapshot(1, 10, one), snapshot(2, 20, two), snapshot(3, 30, None), snapshot(4, 40, None))
    assert outlived(found, 10**6) == [1]
    assert outlived(found, 10) == []


def test_a_snapshot_that_says_less_than_an_older_one_lets_none_go() -> None:
    """One that was said again too late: positions 9 and sequence 9 would go with the older one."""
    for less in (Floor({0: 5}, {"a": 9}), Floor({0: 9}, {"a": 5}), Floor({0: 9}, {"a": 9}, {"records": 1})):
        full = Floor({0: 9}, {"a": 9}, {"records": 9})
        assert outlived(table(snapshot(1, 10, full), snapshot(2, 20, less)), 10**6) == []


def test_a_table_that_nobody_landed_in_keeps_its_current_snapshot() -> None:
    assert outlived(table(snapshot(1, 10, None), snapshot(2, 20, None)), 10**6) == [1]


def test_two_that_forget_at_once_each_by_what_it_saw_once_lose_no_position() -> None:
    """Random histories with clocks that jump and states said again too late; metadata of any age, in any order."""
    for seed in range(3000):
        chance = random.Random(seed)
        floor, history, saw = Floor(), list[dict[str, Any]](), list[dict[str, Any]]()
        gone = set[int]()
        for number in range(1, chance.randrange(4, 14)):
            said: Floor | None = None
            if chance.random() < 0.7:
                if chance.random() < 0.6:
                    floor = floor_of([floor_state(floor), floor_state(_more(chance))])
                said = floor if chance.random() < 0.8 else _less(chance, floor)
            history.append(snapshot(number, chance.randrange(100), said))
            live = [s for s in history if s["snapshot-id"] not in gone]
            saw.append(table(*live))
            if chance.random() < 0.5:
                ids = outlived(chance.choice(saw), chance.randrange(120))
                gone |= set(ids) - {history[-1]["snapshot-id"]}
        live = [s for s in history if s["snapshot-id"] not in gone]
        everything, left = floor_of(states(table(*history))), floor_of(states(table(*live)))
        assert (everything.position, everything.spools) == (left.position, left.spools), f"seed {seed}"


def _more(chance: random.Random) -> Floor:
    return Floor({chance.randrange(3): chance.randrange(50)}, {chance.choice("ab"): chance.randrange(50)})


def _less(chance: random.Random, floor: Floor) -> Floor:
    return Floor({p: o - chance.randrange(2) for p, o in floor.position.items()}, dict(floor.spools))
