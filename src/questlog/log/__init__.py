"""The log: an ordered, durable, replayable record of everything accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

Position = Mapping[int, int]
"""Partition -> next offset to read. A missing partition is read from its beginning."""

START: Position = {}


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One record and its place in the log. `value` is one line of JSON.

    Not a dataclass: one is created per event, and a frozen dataclass takes eight times as long.
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
    """The result of one read; `through` is where the next read starts."""

    entries: Sequence[Entry]
    through: Position
    gaps: Sequence[Gap] = field(default_factory=tuple)

    def __bool__(self) -> bool:
        return bool(self.entries or self.gaps)


class LogReader(Protocol):
    """A log as seen by its readers."""

    def read(self, after: Position, limit: int, max_bytes: int = 2**62) -> Batch:
        """Return about *limit* records past *after*, at most *max_bytes*, in order per partition.

        Empty means nothing new. Raises `LogUnavailable` if the log ends before *after*: it is another log, or an old
        copy of the one that *after* was read from.
        """

    def end(self) -> Position:
        """Return the position just past everything durable now."""

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Delete records that are below *before* and were received before *older_than_ms*; return how many."""


class Log(LogReader, Protocol):
    """An ordered, durable, replayable record of everything accepted."""

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every record would survive a power cut."""


def merge(*positions: Position) -> dict[int, int]:
    """Return the element-wise maximum. Positions only grow."""
    merged: dict[int, int] = {}
    for position in positions:
        for partition, offset in position.items():
            merged[partition] = max(offset, merged.get(partition, 0))
    return merged


def cut_gaps(gaps: Sequence[Gap], until: Position) -> list[Gap]:
    """Return the parts of *gaps* below *until*."""
    cut = []
    for gap in gaps:
        end = min(gap.until, until.get(gap.partition, 0))
        if gap.first < end:
            cut.append(Gap(gap.partition, gap.first, end, gap.reason, gap.received_ms))
    return cut
