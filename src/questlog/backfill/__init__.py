"""Earlier events -> rows, under the current plan: what an older plan refused or did not know is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from questlog.backfill.bounds import Bound
from questlog.log import Position
from questlog.stopping import StopSignal

Shown = Callable[[int, int, int], None]
"""Called with the number of records read, and of how many offsets how many are done: (records, done, total)."""


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
    """Shapes earlier events again. Interrupted at any point and run again, it adds what is still missing, once."""

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> BackfillResult:
        """Backfill what lies between the bounds; return what was done, also when told to stop."""
