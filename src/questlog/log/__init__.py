"""WHERE events wait: an ordered, durable, replayable record of everything accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

Position = Mapping[int, int]
"""Partition -> next offset to read. A partition that is absent starts at its beginning."""

START: Position = {}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One record where it stands in the log. `value` is one line of JSON.

    No dataclass: one is made per event, and a frozen one takes eight times as long.
    """

    partition: int
    offset: int
    value: bytes
    received_ms: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets [first, until) of a partition that can no longer be read, and why."""

    partition: int
    first: int
    until: int
    reason: str
    received_ms: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one read returned; `through` is where the next read starts."""

    entries: Sequence[Entry]
    through: Position
    gaps: Sequence[Gap] = field(default_factory=tuple)

    def __bool__(self) -> bool:
        return bool(self.entries or self.gaps)


class LogReader(Protocol):
    """A log as those see it who take records out of it."""

    def read(self, after: Position, limit: int, max_bytes: int = 2**62) -> Batch:
        """Return about *limit* records, *max_bytes* at most, past *after*, in order per partition.

        Empty means nothing new. Raises `LogUnavailable` if the log ends before *after*: it is not the log
        that position was read from, or an old copy of it.
        """

    def end(self) -> Position:
        """Return the position just past everything durable now."""

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Forget landed records below *before* received before *older_than_ms*; return how many."""


class Log(LogReader, Protocol):
    """An ordered, durable, replayable record of everything accepted."""

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every record would survive a power cut."""


def merge(*positions: Position) -> dict[int, int]:
    """Return the element-wise maximum: positions only grow."""
    merged: dict[int, int] = {}
    for position in positions:
        for partition, offset in position.items():
            merged[partition] = max(offset, merged.get(partition, 0))
    return merged


def cut_gaps(gaps: Sequence[Gap], until: Position) -> list[Gap]:
    """Return the parts of *gaps* that lie below *until*."""
    found = []
    for gap in gaps:
        end = min(gap.until, until.get(gap.partition, 0))
        if gap.first < end:
            found.append(Gap(gap.partition, gap.first, end, gap.reason, gap.received_ms))
    return found
