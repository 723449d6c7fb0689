"""Only the newest lander commits: each attempt of a commit is judged by what it would stand on.

A lander begins by committing its number, the epoch, to each table. Iceberg shows every attempt of a later commit the
snapshots it would follow, after it has read the table anew and before the metastore swaps it: one that would follow a
higher epoch fails, however long its process had been stopped after any check of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from questlog.errors import LanderReplaced
from questlog.land.spark.states import STATE


class Overtaken(Exception):
    """The lander itself has committed meanwhile: what was to be said again is not the newest any more."""


class Fence:
    """What one table must be like for a commit of one lander; Java asks it.

    With *claims* nobody else may have the epoch yet; with *after* the newest state must be exactly that one.
    """

    def __init__(self, epoch: int, *, claims: bool = False, after: str | None = None) -> None:
        self.epoch, self._claims, self._after = epoch, claims, after
        self._rival: int | None = None
        self._overtaken = False

    def validate(self, ancestors: Any) -> bool:
        """Return whether a commit may follow *ancestors*, newest first. Called from Java."""
        self._rival, self._overtaken = None, False
        for text in _texts(ancestors):
            epoch = json.loads(text).get("epoch", 0)
            if epoch > self.epoch or (self._claims and epoch == self.epoch):
                self._rival = epoch
                return False
            if self._after is not None:
                self._overtaken = text != self._after
                return not self._overtaken
            if epoch == self.epoch:  # judged when it was committed; nothing higher can lie behind it
                return True
        return True

    def errorMessage(self) -> str:  # Java's name
        """Return why, for Java's stack trace. Called from Java."""
        return f"epoch {self.epoch} may not follow {'its own newer state' if self._overtaken else self._rival}"

    def explain(self) -> None:
        """Raise what the last refusal means; return if there was none."""
        if self._rival is not None:
            raise replaced(self._rival, self.epoch)
        if self._overtaken:
            raise Overtaken

    class Java:  # what py4j asks for
        implements = ("org.apache.iceberg.SnapshotAncestryValidator",)


def replaced(rival: int, epoch: int) -> LanderReplaced:
    """Return the error of a lander whose tables another one has taken over."""
    return LanderReplaced(
        f"another lander took over these tables (it is number {rival}, this one {epoch})", hint="let one lander run"
    )


def _texts(ancestors: Any) -> Iterator[str]:
    iterator = ancestors.iterator()
    while iterator.hasNext():
        if (text := iterator.next().summary().get(STATE)) is not None:
            yield text
