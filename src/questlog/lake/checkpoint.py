"""A table's checkpoint: how much of the log it holds. Both profiles keep it in the summary of each snapshot.

A table's checkpoint is the element-wise maximum over all its live snapshots. The newest snapshot alone does not
count: compaction by another engine carries no checkpoint. Positions, sequences and counts only grow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from questlog.log import Position, merge

STATE = "questlog.state"
"""The cluster's key in a snapshot's summary: the whole checkpoint as JSON."""
_POSITION, _PLAN = "questlog.position", "questlog.plan-version"
"""The embedded profile's two keys."""
_OPTIONAL = ("kept", "swept", "copied")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The committed part of the log. `plan` is the version under which the last of it was shaped.

    `spools` maps a spool partition to the sequence after its last landed record. `counts` and `epoch` are the
    cluster lander's. `kept` and `swept` are the times (ms) when table maintenance last ran, and last removed orphan
    files. `copied` names the promotion that the snapshot's rows come from.
    """

    position: Position = field(default_factory=dict)
    plan: str = ""
    epoch: int = 0
    spools: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    kept: int = 0
    swept: int = 0
    copied: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SnapshotCheckpoint:
    """One snapshot with its checkpoint: `text` is the checkpoint as the cluster stores it, "" if there is none."""

    id: int
    committed_ms: int
    text: str
    checkpoint: Checkpoint | None


class Summary(Protocol):
    """The summary of a snapshot: a dict, or PyIceberg's own class."""

    def get(self, key: str, /) -> Any:
        """Return the value under *key*, or None."""


# -- one checkpoint ----------------------------------------------------------------------------------


def read_summary(summary: Summary) -> Checkpoint | None:
    """Return the checkpoint in a snapshot's summary, in the spelling of either profile; None if there is none."""
    if (text := summary.get(STATE)) is not None:
        return decode_checkpoint(str(text))
    position, plan = summary.get(_POSITION), summary.get(_PLAN)
    if position is None:
        return None
    return Checkpoint(decode_position(str(position)), "" if plan is None else str(plan))


def summary_notes(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the checkpoint as the embedded profile writes it into a summary."""
    return {_POSITION: encode_position(checkpoint.position), _PLAN: checkpoint.plan}


def encode_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the checkpoint as the cluster writes it into a summary, under the key `STATE`."""
    state: dict[str, Any] = {
        "position": {str(p): offset for p, offset in checkpoint.position.items()},
        "spools": dict(checkpoint.spools), "counts": dict(checkpoint.counts),
        "epoch": checkpoint.epoch, "plan": checkpoint.plan,
    }  # fmt: skip
    state |= {name: value for name in _OPTIONAL if (value := getattr(checkpoint, name))}
    return json.dumps(state, separators=(",", ":"))


def decode_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint in a value of `STATE`."""
    state = json.loads(text)
    position = {int(p): int(offset) for p, offset in state["position"].items()}
    return Checkpoint(
        position, state.get("plan", ""), state.get("epoch", 0), state.get("spools", {}), state.get("counts", {}),
        int(state.get("kept", 0)), int(state.get("swept", 0)), state.get("copied"),
    )  # fmt: skip


def encode_position(position: Position) -> str:
    """Return a position as JSON text."""
    return json.dumps({str(p): o for p, o in sorted(position.items())}, separators=(",", ":"))


def decode_position(text: str) -> Position:
    """Return the position in JSON *text*."""
    return {int(p): int(o) for p, o in json.loads(text).items()}


# -- all of a table's snapshots ----------------------------------------------------------------------


def merge_checkpoints(checkpoints: Iterable[Checkpoint | None]) -> Checkpoint:
    """Return the element-wise maximum of *checkpoints*, oldest first.

    Its plan is that of the last one that moved the position: a half-landed batch is finished under the plan that
    began it. `copied` belongs to one snapshot and is left out.
    """
    merged = Checkpoint()
    for each in checkpoints:
        if each is None:
            continue
        position = merge(merged.position, each.position)
        merged = Checkpoint(
            position,
            each.plan if position != merged.position or not merged.plan else merged.plan,
            max(merged.epoch, each.epoch),
            _maximum(merged.spools, each.spools),
            _maximum(merged.counts, each.counts),
            max(merged.kept, each.kept),
            max(merged.swept, each.swept),
        )
    return merged


def read_snapshots(metadata: Mapping[str, Any]) -> list[SnapshotCheckpoint]:
    """Return the live snapshots in Iceberg's JSON *metadata* of a table, oldest first."""
    return [
        SnapshotCheckpoint(
            int(snapshot["snapshot-id"]), int(snapshot["timestamp-ms"]),
            snapshot["summary"].get(STATE, ""), read_summary(snapshot["summary"]),
        )
        for snapshot in metadata.get("snapshots", [])
    ]  # fmt: skip


def table_checkpoint(metadata: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint of the table with Iceberg's JSON *metadata*."""
    return merge_checkpoints(snapshot.checkpoint for snapshot in read_snapshots(metadata))


def expirable(metadata: Mapping[str, Any], older_ms: int) -> list[int]:
    """Return the ids of snapshots from before *older_ms* whose checkpoint a later snapshot repeats or exceeds.

    That later snapshot is never in the list, nor in a list made from older or newer metadata. So expiring these
    snapshots, however late, removes no position.
    """
    snapshots, merged = read_snapshots(metadata), Checkpoint()
    holder = 0 if any(snapshot.checkpoint for snapshot in snapshots) else len(snapshots)
    for index, snapshot in enumerate(snapshots):
        if snapshot.checkpoint is None:
            continue
        merged = merge_checkpoints((merged, snapshot.checkpoint))
        if _extent(snapshot.checkpoint) == _extent(merged):
            holder = index
    current = metadata.get("current-snapshot-id")
    return [s.id for s in snapshots[:holder] if s.committed_ms < older_ms and s.id != current]


def _extent(checkpoint: Checkpoint) -> tuple[Position, Mapping[str, int], Mapping[str, int]]:
    return checkpoint.position, checkpoint.spools, checkpoint.counts


def _maximum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {**one, **{name: max(number, one.get(name, 0)) for name, number in other.items()}}
