"""Re-processes earlier events with the current plan, and adds the rows that an older plan did not yield."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from questlog.backfill.bounds import Bound
from questlog.log import Position
from questlog.stopping import StopSignal

Shown = Callable[[int, int, int], None]
"""Called with the number of records read, the number of offsets done, and their total: (records, done, total)."""


@dataclass(slots=True)
class BackfillResult:
    """What a backfill did with the part of the log from `first` to before `until`.

    `rows` were added, by table. `held` were already there, `cleared` left quarantine for a table. `waiting` were
    skipped: the lander has not reached them yet and will land them itself.
    """

    first: Position = field(default_factory=dict)
    until: Position = field(default_factory=dict)
    records: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    held: int = 0
    duplicates: int = 0
    cleared: int = 0
    waiting: int = 0


class Backfill(Protocol):
    """Re-processes earlier events. If it is interrupted at any point, the next run adds what is still missing, once."""

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> BackfillResult:
        """Backfill the records between the bounds; return what was done, even if stopped early."""
