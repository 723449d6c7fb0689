"""Rows -> tables, each row once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from questlog.stopping import StopSignal

Shown = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Landed:
    """What one landing did: records read, rows per table (quarantine included), duplicates dropped."""

    records: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0

    def __add__(self, other: Landed) -> Landed:
        names = {*self.rows, *other.rows}
        rows = {n: self.rows.get(n, 0) + other.rows.get(n, 0) for n in names}
        return Landed(self.records + other.records, rows, self.duplicates + other.duplicates)


class Lander(Protocol):
    """Moves the log into the tables, each record once, even if it is killed in the middle.

    Use as a context manager, which makes this process the lander. A second lander on the same machine is refused with
    `LanderBusy`. In a cluster, one on another machine takes over, and the older one fails at its next commit.
    """

    def drain(self, stop: StopSignal | None = None, shown: Shown | None = None) -> Landed:
        """Land everything logged so far. If *stop* is set, return after the current batch.

        *shown* is called after each batch with the number of records landed and the number to land.
        """

    def run(self, stop: StopSignal) -> None:
        """Land until asked to stop. Records that are not landed by then are left for the next lander."""
