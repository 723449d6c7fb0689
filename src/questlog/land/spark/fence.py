"""Only the newest lander commits: each attempt of a commit is judged by what it would stand on.

A lander begins by committing its number, the epoch, to each table. Iceberg shows every attempt of a later commit the
snapshots it would follow, after it has read the table anew and before the metastore swaps it: one that would follow a
higher epoch fails, however long its process had been stopped after any check of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from questlog.errors import LanderReplaced

STATE = "questlog.state"


class Fence:
    """What one table must be like for one lander to commit; Java asks it. `last` is the state it committed last."""

    def __init__(self, epoch: int, *, claims: bool = False) -> None:
        self.epoch, self._claims = epoch, claims
        self._last = ""
        self._rival: int | None = None

    def remember(self, state: str) -> None:
        """Take *state* for the last that is ours."""
        self._last = state

    def validate(self, ancestors: Any) -> bool:
        """Return whether a commit may follow *ancestors*, newest first. Called from Java."""
        self._rival = None
        for snapshot in _each(ancestors):
            text = snapshot.summary().get(STATE)
            if text is None:
                continue
            if text == self._last:
                return True
            epoch = json.loads(text).get("epoch", 0)
            if epoch > self.epoch or (self._claims and epoch == self.epoch):
                self._rival = epoch
                return False
        return True

    def errorMessage(self) -> str:  # Java's name
        """Return why, for Java's stack trace. Called from Java."""
        return f"epoch {self.epoch} may not follow epoch {self._rival}"

    def explain(self) -> None:
        """Raise what the last refusal means; return if there was none."""
        if self._rival is not None:
            raise replaced(self._rival, self.epoch)

    class Java:  # what py4j asks for
        implements = ("org.apache.iceberg.SnapshotAncestryValidator",)


def replaced(rival: int, epoch: int) -> LanderReplaced:
    """Return the error of a lander whose tables another one has taken over."""
    return LanderReplaced(
        f"another lander took over these tables (it is number {rival}, this one {epoch})", hint="let one lander run"
    )


def _each(iterable: Any) -> Iterator[Any]:
    iterator = iterable.iterator()
    while iterator.hasNext():
        yield iterator.next()


def states(metadata: Any) -> list[Any]:
    """Return what a table's live snapshots say, oldest first; upkeep's say nothing."""
    summaries = [snapshot["summary"] for snapshot in metadata.get("snapshots", [])]
    return [json.loads(summary[STATE]) for summary in summaries if STATE in summary]


def text_of(state: Mapping[str, Any]) -> str:
    """Return a state as it stands in a snapshot's summary."""
    return json.dumps(state, separators=(",", ":"))
