"""One partition as its writer holds it: claimed by a lock, a row of segments, the last one growing."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import zstandard

from questlog.durable import FileLock, make_folder, read_sqlite, remove_sqlite
from questlog.errors import LogUnavailable
from questlog.log import Position
from questlog.log.sqlite.segment import (
    Damaged,
    Segment,
    Stored,
    create,
    open_writer,
    pack,
    read_age,
    read_tail,
    write,
)

_NAME = re.compile(r"^(\d{10})-(\d{16})\.db$")
_GONE = re.compile(r"^(\d{10})\.gone$")
_LOOK_SECONDS = 0.1

ReadCheckpoint = Callable[[], Position]
"""Returns how far the log has been read, according to its readers."""
_Behind = Callable[[int, int], bool]


class Displaced(LogUnavailable):
    """Somebody removed or replaced the files of this partition while it was being written."""


def list_segments(folder: Path) -> dict[int, list[Segment]]:
    """Return each partition's segments in order of offsets."""
    found: dict[int, list[Segment]] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            match = _NAME.match(file.name)
            if match:
                partition, first = int(match.group(1)), int(match.group(2))
                found.setdefault(partition, []).append(Segment(partition, first, Path(file.path), file.inode()))
    for segments in found.values():
        segments.sort(key=lambda segment: segment.first)
    return dict(sorted(found.items()))


def list_gone(folder: Path) -> set[int]:
    """Return the partitions whose loss the operator has accepted."""
    return {int(m.group(1)) for m in map(_GONE.match, os.listdir(folder)) if m} if folder.is_dir() else set()


class Writer:
    """A claimed partition. Not for two threads at once."""

    def __init__(
        self, folder: Path, partition: int, lock: FileLock, first: int, *, segment_bytes: int, segment_seconds: float
    ) -> None:
        self.partition = partition
        self.next = first
        self._folder, self._lock = folder, lock
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._connection: sqlite3.Connection | None = None
        try:
            self._begin_segment()
        except BaseException:
            self.close()
            raise

    def append(self, chunks: Sequence[list[bytes]]) -> int:
        """Commit *chunks* as one row each, all or none; return the first offset."""
        self._roll()
        self._look(every=_LOOK_SECONDS)
        first, received_ms, rows = self.next, time.time_ns() // 1_000_000, list[Stored]()
        for lines in chunks:
            rows.append(pack(rows[-1].end if rows else first, lines, received_ms, self._compressor))
        assert self._connection is not None
        write(self._connection, rows)
        self.next = rows[-1].end
        self._bytes += sum(len(row.payload) for row in rows)
        return first

    def probe(self) -> None:
        """Commit to the file that takes events, and read it back through another connection; no record is made."""
        self._look(every=0)
        assert self._connection is not None
        token = secrets.randbelow(2**31 - 1) + 1
        self._connection.execute(f"pragma user_version = {token}")
        with contextlib.closing(read_sqlite(self._path)) as reader:
            found = reader.execute("pragma user_version").fetchone()[0]
        if found != token:
            raise LogUnavailable(f"{self._path} does not give back what was written", hint="questlog doctor")

    def _roll(self) -> None:
        """Begin a new segment when this one is big or old: only whole segments give their space back."""
        old = self._bytes and time.monotonic() > self._began + self._segment_seconds
        if not old and self._bytes < self._segment_bytes:
            return
        sealed = self._connection
        self._begin_segment()
        assert sealed is not None
        with contextlib.suppress(sqlite3.Error):  # what stays in the WAL is as safe there
            sealed.execute("pragma wal_checkpoint(truncate)")
        with contextlib.suppress(sqlite3.Error):
            sealed.close()

    def _begin_segment(self) -> None:
        """Never append to a file another process left: what its last fsync promised is not known.

        An empty one is different: nothing in it could be relied on by what we add.
        """
        path = self._folder / f"{self.partition:010}-{self.next:016}.db"
        if not path.exists():
            create(path, self.next)
        self._connection = open_writer(path)
        self._path, self._inode = path, path.stat().st_ino
        self._bytes, self._began, self._looked = 0, time.monotonic(), float("-inf")

    def _look(self, *, every: float) -> None:
        """Make sure that what we write to is still what readers will open; raise `Displaced` if not."""
        now = time.monotonic()
        if now < self._looked + every:
            return
        try:
            ours = self._path.stat().st_ino == self._inode
            ours = ours and self._lock.is_current()
        except FileNotFoundError:
            ours = False
        if not ours:
            raise Displaced(f"{self._path} was removed or replaced while it was in use", retry_after=1)
        self._looked = now

    def close(self) -> None:
        """Give the partition back."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._lock.release()


def claim(folder: Path, checkpoint: ReadCheckpoint | None, *, segment_bytes: int, segment_seconds: float) -> Writer:
    """Claim a partition nobody writes to, or begin a new one. The lock dies with the process.

    A partition's number is drawn at random, once: it is its identity. A log folder that was deleted or
    replaced has other numbers, so no remembered position can be mistaken for a place in it.
    """
    make_folder(folder)
    taken = list_gone(folder)
    known = [partition for partition in list_segments(folder) if partition not in taken]
    behind = _behind_checkpoint(checkpoint if known else None)
    for partition in known:
        writer = _reclaim(folder, partition, behind, segment_bytes, segment_seconds)
        if writer is not None:
            return writer
    while True:
        partition = secrets.randbelow(2**31 - 1) + 1
        lock = None if partition in taken or partition in known else _try_lock(folder, partition)
        if lock is not None:
            return Writer(folder, partition, lock, 0, segment_bytes=segment_bytes, segment_seconds=segment_seconds)


def seal(folder: Path, partition: int) -> None:
    """Begin a new last segment in a partition nobody writes to, so that the old one may be trimmed."""
    writer = _reclaim(folder, partition, _behind_checkpoint(None), 0, 0)
    if writer is not None:
        writer.close()


class Trimmer:
    """Deletes what is landed and old, in every partition, also while others write and read."""

    def __init__(self, folder: Path, grace_seconds: float) -> None:
        self._folder, self._grace_seconds = folder, grace_seconds
        self._lock = threading.Lock()
        self._doomed: dict[Path, float] = {}

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Delete segments that are landed and old, and return how many records that were.

        What stands before something old is at least as old: a clock that was wrong for a while keeps
        nothing for ever. A segment is deleted some time after it is first found ready, so that a reader
        whose position is a moment older still finds it, whatever the clock says.
        """
        trimmed = 0
        with self._lock:
            for partition, segments in list_segments(self._folder).items():
                reached = before.get(partition, 0)
                if segments[-1].first < reached and self._is_old(segments[-1], older_than_ms):
                    seal(self._folder, partition)
                    segments = list_segments(self._folder)[partition]
                landed = [one for one, following in pairwise(segments) if following.first <= reached]
                old = [index for index, one in enumerate(landed) if self._is_old(one, older_than_ms)]
                for one, following in pairwise(segments[: old[-1] + 2] if old else ()):
                    if self._is_due(one.path):
                        remove_sqlite(one.path)
                        trimmed += following.first - one.first
        return trimmed

    def _is_old(self, segment: Segment, older_than_ms: int) -> bool:
        """Return whether its newest record is; a damaged segment is as old as the next one that is not."""
        try:
            with contextlib.closing(read_sqlite(segment.path)) as connection:
                age = read_age(connection)
        except (Damaged, FileNotFoundError):
            return False
        return age is not None and age < older_than_ms

    def _is_due(self, path: Path) -> bool:
        since = self._doomed.setdefault(path, time.monotonic())
        if time.monotonic() - since < self._grace_seconds:
            return False
        del self._doomed[path]
        return True


def _reclaim(
    folder: Path, partition: int, behind: _Behind, segment_bytes: int, segment_seconds: float
) -> Writer | None:
    lock = _try_lock(folder, partition)
    if lock is None:
        return None
    try:
        end = _usable_end(folder, partition)
        usable = end is not None and not behind(partition, end)
    except BaseException:
        lock.release()
        raise
    if end is None or not usable:
        lock.release()
        return None
    return Writer(folder, partition, lock, end, segment_bytes=segment_bytes, segment_seconds=segment_seconds)


def _behind_checkpoint(checkpoint: ReadCheckpoint | None) -> _Behind:
    """Return a test: was *partition* read beyond *end*? Then it is an old copy, and is not written to."""
    if checkpoint is None:
        return lambda partition, end: False
    try:
        reached = checkpoint()
    except Exception:  # whatever keeps the readers' memory from being read must not keep events out
        return lambda partition, end: True
    return lambda partition, end: reached.get(partition, 0) > end


def _usable_end(folder: Path, partition: int) -> int | None:
    """Return where to go on in a partition we hold, or None if it is damaged: then it is only read."""
    for draft in folder.glob(f"{partition:010}-*.new"):  # of a writer that died while it began a segment
        draft.unlink(missing_ok=True)
    segments = list_segments(folder).get(partition)
    if not segments:
        return None
    try:
        with contextlib.closing(read_sqlite(segments[-1].path)) as connection:
            return read_tail(connection)
    except (Damaged, sqlite3.Error):
        return None


def _try_lock(folder: Path, partition: int) -> FileLock | None:
    """Return a lock on the partition, or None if another process holds it. A left-over file locks nothing."""
    lock = FileLock(folder / f"{partition:010}.lock")
    if lock.take():
        return lock
    lock.release()
    return None
