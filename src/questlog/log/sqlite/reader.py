"""Reads the log: new records of all partitions in turn, damaged records as gaps."""

from __future__ import annotations

import contextlib
import heapq
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from itertools import count, repeat, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

from questlog.durable import denied, read_sqlite
from questlog.errors import LogUnavailable
from questlog.log import START, Batch, Entry, Gap, Position
from questlog.log.sqlite.partition import list_gone, list_segments
from questlog.log.sqlite.salvage import salvage
from questlog.log.sqlite.segment import (
    Damaged,
    Segment,
    Stored,
    WentBack,
    holding,
    read_tail,
    scan,
    unpack,
)

_MOVED_SECONDS = 10.0
_PAUSE_SECONDS = 0.01
_T = TypeVar("_T")
_value_of = attrgetter("value")


class Reader:
    """Reads a log folder while others write and trim it. Safe for threads, which read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        self._kept: dict[Path, tuple[int, sqlite3.Connection]] = {}

    def read(self, after: Position, limit: int, max_bytes: int) -> Batch:
        """Return about *limit* records past *after*, whole group commits, in order per partition.

        Partitions take turns, so that a busy one does not starve a quiet one.
        """
        return self._retry(after, lambda partitions: self._read(partitions, after, limit, max_bytes))

    def _retry(self, after: Position, work: Callable[[dict[int, list[Segment]]], _T]) -> _T:
        """Run *work* on each partition's segments, and again if one of them is trimmed in the meantime."""
        deadline = time.monotonic() + _MOVED_SECONDS
        while True:
            with contextlib.suppress(FileNotFoundError), self._reading(after) as partitions:
                return work(partitions)
            if time.monotonic() > deadline:
                raise LogUnavailable(
                    f"the files in {self.folder} are changing faster than they can be read", retry_after=1
                )
            time.sleep(_PAUSE_SECONDS)

    def _read(self, partitions: dict[int, list[Segment]], after: Position, limit: int, max_bytes: int) -> Batch:
        entries: dict[int, list[Entry]] = {partition: [] for partition in partitions}
        gaps: list[Gap] = []
        through = dict(after)
        records = size = 0
        with contextlib.ExitStack() as stack:
            turns = []
            for partition, segments in partitions.items():
                items = stack.enter_context(contextlib.closing(self._rows_and_gaps(segments, after.get(partition, 0))))
                turns.append((0, partition, items))
            while turns and records < limit and size < max_bytes:
                delivered, partition, items = heapq.heappop(turns)
                item = next(items, None)
                if item is None:
                    continue
                if isinstance(item, Gap):
                    gaps.append(item)
                    through[partition] = item.until
                else:
                    batch = _entries(partition, item, after.get(partition, 0))
                    entries[partition] += batch
                    through[partition] = item.end
                    delivered += len(batch)
                    records += len(batch)
                    size += sum(map(len, map(_value_of, batch)))
                heapq.heappush(turns, (delivered, partition, items))
        return Batch([entry for batch in entries.values() for entry in batch], through, tuple(gaps))

    def _rows_and_gaps(self, segments: list[Segment], start: int) -> Generator[Stored | Gap, None, None]:
        """Yield the rows and gaps of a partition from offset *start* on, in order."""
        if start < segments[0].first:
            yield Gap(segments[0].partition, start, segments[0].first, "trimmed after landing")
            start = segments[0].first
        for segment, following in zip_longest(segments, segments[1:]):
            until = None if following is None else following.first  # a segment ends where the next begins
            if until is not None and until <= start:
                continue
            for item in self._segment_rows_and_gaps(segment, start, until):
                yield item
                start = item.until if isinstance(item, Gap) else item.end
            if until is not None and start < until:
                return  # damaged and still being written: nothing after it is delivered yet

    def _segment_rows_and_gaps(self, segment: Segment, start: int, until: int | None) -> Iterator[Stored | Gap]:
        with _detecting_trim(segment), self._opened(segment, keep=until is None) as connection:
            try:
                for row in scan(connection, start, until):
                    yield row
                    start = row.end
            except WentBack as error:
                raise _went_back(segment.partition, f"{segment.path}: {error}") from error
            except Damaged as damage:
                yield from _salvaged(connection, segment, start, until, str(damage))

    def end(self) -> Position:
        """Return the position just past everything durable now, read from each partition's newest segment."""
        return self._retry(START, lambda partitions: {p: self._end(segments[-1]) for p, segments in partitions.items()})

    def _end(self, last: Segment) -> int:
        with _detecting_trim(last), self._opened(last, keep=True) as connection:
            try:
                return read_tail(connection)
            except Damaged as damage:
                items = _salvaged(connection, last, last.first, None, str(damage))
                return max((item.until if isinstance(item, Gap) else item.end for item in items), default=last.first)

    @contextlib.contextmanager
    def _reading(self, after: Position) -> Iterator[dict[int, list[Segment]]]:
        """Yield each partition's segments. It is an error if a partition that was read earlier is missing."""
        with self.lock, _reporting_errors(self.folder):
            gone = list_gone(self.folder)
            partitions = {p: segments for p, segments in list_segments(self.folder).items() if p not in gone}
            lost = [p for p, offset in after.items() if offset and p not in partitions and p not in gone]
            if lost:
                raise _went_back(lost[0], f"{self.folder} has no partition {lost[0]}, which was read earlier")
            self._drop_replaced(partitions)
            yield partitions

    @contextlib.contextmanager
    def _opened(self, segment: Segment, *, keep: bool) -> Iterator[sqlite3.Connection]:
        """Yield a connection to a segment. Those to the last segments stay open between reads."""
        kept = self._kept.get(segment.path)
        if kept is not None:
            yield kept[1]
            return
        connection = read_sqlite(segment.path)
        if keep:
            self._kept[segment.path] = (segment.inode, connection)
        try:
            yield connection
        finally:
            if not keep:
                connection.close()

    def _drop_replaced(self, partitions: Mapping[int, list[Segment]]) -> None:
        current = {segments[-1].path: segments[-1].inode for segments in partitions.values()}
        for path, (inode, connection) in list(self._kept.items()):
            if current.get(path) != inode:
                connection.close()
                del self._kept[path]

    def close(self) -> None:
        """Close every connection. The caller holds the lock."""
        for _, connection in self._kept.values():
            connection.close()
        self._kept.clear()


def _entries(partition: int, row: Stored, start: int) -> list[Entry]:
    first = max(start, row.first)
    lines = unpack(row)[first - row.first :]
    return list(map(Entry, repeat(partition), count(first), lines, repeat(row.received_ms)))


def _salvaged(
    connection: sqlite3.Connection, segment: Segment, start: int, until: int | None, reason: str
) -> Iterator[Stored | Gap]:
    """Yield the intact rows of a damaged segment from *start* on, and gaps for the missing ones."""
    with holding(connection) as held:
        salvaged = salvage(segment.path, held=held)
    if not segment.path.exists():  # trimmed, not damaged
        raise FileNotFoundError(segment.path)
    rows = [row for row in salvaged.rows if row.end > start and (until is None or row.first < until)]
    end = max([salvaged.end or 0, *(row.end for row in rows)]) if until is None else until
    for row in rows:
        if row.first > start:
            if not salvaged.settled:
                return
            yield Gap(segment.partition, start, row.first, reason, row.received_ms)
        yield row
        start = row.end
    if salvaged.settled and start < end:
        yield Gap(segment.partition, start, end, reason, rows[-1].received_ms if rows else 0)


def _went_back(partition: int, what: str) -> LogUnavailable:
    return LogUnavailable(
        f"the log went backwards: {what}",
        hint=f"restore the newer log; to accept the loss, rename the partition's files and create an empty file"
        f" {partition:010}.gone in the log folder",
    )


@contextlib.contextmanager
def _detecting_trim(segment: Segment) -> Iterator[None]:
    """Turn SQLite errors about a file that was trimmed while open into `FileNotFoundError`.

    An error about a file that we may not read, such as one of root's, names the file and its owner.
    """
    try:
        yield
    except sqlite3.Error as error:
        if not segment.path.exists():
            raise FileNotFoundError(segment.path) from None
        for kind in ("", "-wal", "-shm"):
            file = segment.path.with_name(segment.path.name + kind)
            if file.exists() and not os.access(file, os.R_OK):
                reason = denied(file)
                raise LogUnavailable(f"the log cannot be read: {reason}", hint=reason.hint, retry_after=1) from error
        raise


@contextlib.contextmanager
def _reporting_errors(folder: Path) -> Iterator[None]:
    """Turn errors other than damage (locks, permissions, open files) into `LogUnavailable`: they may pass."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(
            f"the log in {folder} cannot be read: {error}", hint="questlog doctor", retry_after=1
        ) from error
