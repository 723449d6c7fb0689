"""Which part of a log is read again: from and until, as offsets of its partitions or as times."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from questlog.errors import QuestlogError
from questlog.log import Position
from questlog.stopping import StopSignal

Shown = Callable[[int, int, int], None]
"""To be told how many records are read, and how many of how many offsets are done."""

_OFFSETS = re.compile(r"\d+:\d+(?:,\d+:\d+)*")
_OPEN = ("earliest", "latest")


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a part: offsets by partition, or a time in milliseconds; with neither it is the log's own end."""

    offsets: Position = field(default_factory=dict)
    ms: int | None = None


OPEN = Bound()


@dataclass(slots=True)
class Filled:
    """What a backfill did with the part from `first` to before `until`.

    `rows` were added, by table. `held` were there already, `cleared` left quarantine for a table. `waiting`
    were not looked at: the lander has not come to them yet, and they are its own.
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
    """Adds to the tables what the current plan makes of older records."""

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> Filled:
        """Add what lies between the bounds; return what was done, by then if stopped."""


def parse_bound(text: str) -> Bound:
    """Return what `--from` or `--to` says: `earliest`, `latest`, `0:100,1:250`, or a date or time (UTC)."""
    if text in _OPEN:
        return OPEN
    if _OFFSETS.fullmatch(text):
        pairs = [pair.split(":") for pair in text.split(",")]
        return Bound({int(partition): int(offset) for partition, offset in pairs})
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise QuestlogError(
            f"{text!r} is no place in a log",
            hint="earliest, latest, offsets as 0:100,1:250, or a time as 2026-11-24 or 2026-11-24T10:00",
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return Bound(ms=int(moment.timestamp() * 1000))


def slices(first: Position, until: Position, records: int) -> Iterator[tuple[Position, Position]]:
    """Yield what lies between in order, about *records* offsets at a time, every partition taking part."""
    at = {partition: first.get(partition, 0) for partition in until}
    while left := [partition for partition, end in until.items() if at[partition] < end]:
        share = max(1, records // len(left))
        end = {p: min(until[p], at[p] + share) if p in left else at[p] for p in at}
        yield dict(at), end
        at = end


def count_between(first: Position, until: Position) -> int:
    """Return how many offsets lie between."""
    return sum(max(0, end - first.get(partition, 0)) for partition, end in until.items())
