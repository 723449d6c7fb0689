"""The part of a log to re-read: a start and an end, as offsets of its partitions or as times."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from questlog.errors import QuestlogError
from questlog.log import Position

_OFFSETS = re.compile(r"\d+:\d+(?:,\d+:\d+)*")
_OPEN = ("earliest", "latest")


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a part: offsets by partition, or a time in milliseconds; with neither, the end of the log."""

    offsets: Position = field(default_factory=dict)
    ms: int | None = None


OPEN = Bound()


def parse_bound(text: str) -> Bound:
    """Return the bound in `--from` or `--to`: `earliest`, `latest`, `0:100,1:250`, or a date or time (UTC)."""
    if text in _OPEN:
        return OPEN
    if _OFFSETS.fullmatch(text):
        pairs = [pair.split(":") for pair in text.split(",")]
        return Bound({int(partition): int(offset) for partition, offset in pairs})
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        raise QuestlogError(
            f"{text!r} is not a valid log position",
            hint="use earliest, latest, offsets such as 0:100,1:250, or a time such as 2026-11-24T10:00",
        ) from None
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)
    return Bound(ms=int(time.timestamp() * 1000))


def slices(first: Position, until: Position, records: int) -> Iterator[tuple[Position, Position]]:
    """Yield the offsets between the bounds in order, about *records* at a time, spread over all partitions."""
    at = {partition: first.get(partition, 0) for partition in until}
    while left := [partition for partition, end in until.items() if at[partition] < end]:
        share = max(1, records // len(left))
        end = {p: min(until[p], at[p] + share) if p in left else at[p] for p in at}
        yield dict(at), end
        at = end


def count_between(first: Position, until: Position) -> int:
    """Return how many offsets lie between the bounds."""
    return sum(max(0, end - first.get(partition, 0)) for partition, end in until.items())
