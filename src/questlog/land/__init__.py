"""Rows -> tables, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from questlog.stopping import StopSignal as StopSignal

Shown = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Landed:
    """What one landing did: records read, rows per table (quarantine too), duplicates dropped."""

    records: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0

    def __add__(self, other: Landed) -> Landed:
        names = {*self.rows, *other.rows}
        rows = {n: self.rows.get(n, 0) + other.rows.get(n, 0) for n in names}
        return Landed(self.records + other.records, rows, self.duplicates + other.duplicates)


class Lander(Protocol):
    """Moves the log into the tables, each record once, whatever ends it in the middle.

    A context: entering it makes it the one that lands. A second one on the same machine is refused with
    `LanderBusy`; on the cluster one on another machine takes over, and the older fails its next commit.
    """

    def drain(self, stop: StopSignal | None = None, shown: Shown | None = None) -> Landed:
        """Land everything logged so far, or until *stop* is set, which takes effect between two batches.

        *shown* is called after each batch with the number of records landed, and the number there are to land.
        """

    def run(self, stop: StopSignal) -> None:
        """Land until told to stop; what is logged by then and not landed is the next lander's."""
