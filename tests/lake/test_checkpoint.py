"""Checkpoints: the format of 0.1.0 is read, and expiring snapshots never loses a position."""

from __future__ import annotations

import json
import random
from typing import Any

from questlog.lake.checkpoint import (
    STATE,
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    expirable,
    merge_checkpoints,
    read_summary,
    summary_notes,
    table_checkpoint,
)


def snapshot(number: int, ms: int, checkpoint: Checkpoint | None) -> dict[str, Any]:
    notes = {} if checkpoint is None else {STATE: encode_checkpoint(checkpoint)}
    return {"snapshot-id": number, "timestamp-ms": ms, "summary": {"operation": "append", **notes}}


def table(*snapshots: dict[str, Any]) -> dict[str, Any]:
    return {"snapshots": list(snapshots), "current-snapshot-id": snapshots[-1]["snapshot-id"]}


def test_a_snapshot_whose_checkpoint_a_later_one_repeats_may_expire() -> None:
    one = Checkpoint({0: 5}, "p", 1, {"a": 5}, {"records": 5})
    two = Checkpoint({0: 9, 1: 2}, "p", 1, {"a": 9}, {"records": 11})
    metadata = table(snapshot(1, 10, one), snapshot(2, 20, two), snapshot(3, 30, None), snapshot(4, 40, None))
    assert expirable(metadata, 10**6) == [1]
    assert expirable(metadata, 10) == []


def test_a_snapshot_with_an_older_checkpoint_lets_none_expire() -> None:
    """It was repeated too late: position 9 and sequence 9 would expire with the older one."""
    for less in (
        Checkpoint({0: 5}, spools={"a": 9}),
        Checkpoint({0: 9}, spools={"a": 5}),
        Checkpoint({0: 9}, spools={"a": 9}, counts={"records": 1}),
    ):
        full = Checkpoint({0: 9}, spools={"a": 9}, counts={"records": 9})
        assert expirable(table(snapshot(1, 10, full), snapshot(2, 20, less)), 10**6) == []


def test_a_table_without_a_checkpoint_keeps_its_current_snapshot() -> None:
    assert expirable(table(snapshot(1, 10, None), snapshot(2, 20, None)), 10**6) == [1]


def test_concurrent_expiry_with_stale_metadata_loses_no_position() -> None:
    """Random histories: clocks jump, checkpoints are repeated too late, metadata is of any age and in any order."""
    for seed in range(3000):
        chance = random.Random(seed)
        checkpoint, history, saw = Checkpoint(), list[dict[str, Any]](), list[dict[str, Any]]()
        gone = set[int]()
        for number in range(1, chance.randrange(4, 14)):
            stored: Checkpoint | None = None
            if chance.random() < 0.7:
                if chance.random() < 0.6:
                    checkpoint = merge_checkpoints([checkpoint, _more(chance)])
                stored = checkpoint if chance.random() < 0.8 else _less(chance, checkpoint)
            history.append(snapshot(number, chance.randrange(100), stored))
            live = [s for s in history if s["snapshot-id"] not in gone]
            saw.append(table(*live))
            if chance.random() < 0.5:
                ids = expirable(chance.choice(saw), chance.randrange(120))
                gone |= set(ids) - {history[-1]["snapshot-id"]}
        live = [s for s in history if s["snapshot-id"] not in gone]
        everything, left = table_checkpoint(table(*history)), table_checkpoint(table(*live))
        assert (everything.position, everything.spools) == (left.position, left.spools), f"seed {seed}"


def _more(chance: random.Random) -> Checkpoint:
    sequences = {chance.choice("ab"): chance.randrange(50)}
    return Checkpoint({chance.randrange(3): chance.randrange(50)}, spools=sequences)


def _less(chance: random.Random, checkpoint: Checkpoint) -> Checkpoint:
    position = {p: o - chance.randrange(2) for p, o in checkpoint.position.items()}
    return Checkpoint(position, spools=checkpoint.spools)


# What 0.1.0 wrote.
TABLE = '{"position":{"0":5,"1":9},"plan":"a1b2","epoch":3}'
PROGRESS = '{"position":{"0":5},"spools":{"ab12cd.0":7},"counts":{"records":5,"lost":0},"epoch":3,"plan":"a1b2"}'
MAINTAINED = '{"position":{"0":5},"plan":"a1b2","epoch":3,"kept":1795000000000,"swept":1794000000000}'
COPIED = '{"position":{},"plan":"a1b2","epoch":1,"copied":{"by":"ff","of":"/m.json","rows":200}}'


def test_checkpoints_written_by_0_1_0_are_read() -> None:
    assert read_summary({STATE: TABLE}) == Checkpoint({0: 5, 1: 9}, "a1b2", 3)
    assert read_summary({STATE: PROGRESS}) == Checkpoint({0: 5}, "a1b2", 3, {"ab12cd.0": 7}, {"records": 5, "lost": 0})
    maintained = Checkpoint({0: 5}, "a1b2", 3, kept=1795000000000, swept=1794000000000)
    assert read_summary({STATE: MAINTAINED}) == maintained
    copied = Checkpoint({}, "a1b2", 1, copied={"by": "ff", "of": "/m.json", "rows": 200})
    assert read_summary({STATE: COPIED}) == copied
    embedded = {"questlog.position": '{"0":5,"1":9}', "questlog.plan-version": "a1b2"}
    assert read_summary(embedded) == Checkpoint({0: 5, 1: 9}, "a1b2")
    assert read_summary({"operation": "replace"}) is None


def test_new_checkpoints_can_be_read_by_0_1_0() -> None:
    """Its keys are still there, for the tables and for the lander's own."""
    checkpoint = Checkpoint({1: 9, 0: 5}, "a1b2", 3)
    assert summary_notes(checkpoint) == {"questlog.position": '{"0":5,"1":9}', "questlog.plan-version": "a1b2"}
    state = json.loads(encode_checkpoint(checkpoint))
    assert state == {"position": {"0": 5, "1": 9}, "spools": {}, "counts": {}, "epoch": 3, "plan": "a1b2"}
    for text in (TABLE, PROGRESS, MAINTAINED, COPIED):
        assert json.loads(text).items() <= json.loads(encode_checkpoint(decode_checkpoint(text))).items()


def test_a_merged_checkpoint_is_the_maximum_and_names_the_plan_that_moved_the_position_last() -> None:
    one = Checkpoint({0: 5}, "old", 1, {"a": 5}, {"records": 5}, kept=10)
    two = Checkpoint({0: 5, 1: 2}, "new", 2, {"a": 4, "b": 1}, {"records": 7})
    again = Checkpoint({0: 3}, "newest", 1)
    merged = Checkpoint({0: 5, 1: 2}, "new", 2, {"a": 5, "b": 1}, {"records": 7}, kept=10)
    assert merge_checkpoints([one, None, two, again]) == merged
