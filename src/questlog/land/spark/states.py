"""What a snapshot says in its summary: how far its table is. What all of a table's snapshots say together counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from questlog.log import Position, merge

STATE = "questlog.state"
KEPT, SWEPT = "kept", "swept"
"""In a state that upkeep committed: when, and when the table's folder was last looked through, in milliseconds."""


@dataclass(slots=True)
class Floor:
    """What every table holds: positions, sequences and counts; with the epoch of the lander that wrote it."""

    position: dict[int, int] = field(default_factory=dict)
    spools: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    plan: str = ""


def states(metadata: Any) -> list[Any]:
    """Return what a table's live snapshots say, oldest first; those of Iceberg's procedures say nothing."""
    return [state for _, state in stated(metadata) if state is not None]


def stated(metadata: Any) -> list[tuple[dict[str, Any], Any]]:
    """Return a table's live snapshots, oldest first, each with what it says or None."""
    found = []
    for snapshot in metadata.get("snapshots", []):
        text = snapshot["summary"].get(STATE)
        found.append((snapshot, None if text is None else json.loads(text)))
    return found


def text_of(state: Mapping[str, Any]) -> str:
    """Return a state as it stands in a snapshot's summary."""
    return json.dumps(state, separators=(",", ":"))


def floor_of(found: Sequence[Any]) -> Floor:
    """Return the newest floor of these states: positions, sequences and counts only grow."""
    floor = Floor()
    for state in found:
        floor.position = merge(floor.position, numbers(state["position"]))
        floor.spools = _higher(floor.spools, state.get("spools", {}))
        floor.counts = _higher(floor.counts, state.get("counts", {}))
        if state.get("epoch", 0) >= floor.epoch:
            floor.epoch, floor.plan = state.get("epoch", 0), state["plan"]
    return floor


def floor_state(floor: Floor) -> dict[str, Any]:
    """Return a floor as a state."""
    return {
        "position": {str(p): o for p, o in floor.position.items()}, "spools": floor.spools, "counts": floor.counts,
        "epoch": floor.epoch, "plan": floor.plan,
    }  # fmt: skip


def holds(found: Sequence[Any]) -> tuple[Position, str]:
    """Return what a table with these states holds, and the plan under which the last of it came."""
    position: Position = {}
    plan = ""
    for state in found:
        merged = merge(position, numbers(state["position"]))
        plan = state["plan"] if merged != position or not plan else plan
        position = merged
    return position, plan


def outlived(metadata: Any, older_ms: int) -> list[int]:
    """Return the ids of snapshots from before *older_ms* that nobody needs: a later one says all that they say.

    That later one is never in the list, nor in one made of older or newer metadata; so whoever forgets these, however
    late, takes no position with them.
    """
    found = stated(metadata)
    said = Floor()
    holder = 0 if any(state is not None for _, state in found) else len(found)
    for place, (_, state) in enumerate(found):
        if state is None:
            continue
        own, said = floor_of([state]), floor_of([floor_state(said), state])
        if (own.position, own.spools, own.counts) == (said.position, said.spools, said.counts):
            holder = place
    current = metadata.get("current-snapshot-id")
    old = [s for s, _ in found[:holder] if s["timestamp-ms"] < older_ms and s["snapshot-id"] != current]
    return [int(snapshot["snapshot-id"]) for snapshot in old]


def last(metadata: Any, mark: str) -> int:
    """Return the highest *mark* of the table's states, 0 if none has one."""
    return max((int(state.get(mark, 0)) for state in states(metadata)), default=0)


def numbers(position: Mapping[str, int]) -> dict[int, int]:
    """Return a position as it is written in JSON as one with numbers."""
    return {int(partition): offset for partition, offset in position.items()}


def _higher(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {**one, **{name: max(number, one.get(name, 0)) for name, number in other.items()}}
