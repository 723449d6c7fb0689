"""One partition of the log: claimed by a lock, stored as a sequence of segments, appended to the last one."""

from __future__ import annotations

import contextlib
import logging
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

from questlog.durable import FileLock, denied, make_folder, read_sqlite, remove_sqlite
from questlog.errors import LogUnavailable, NotPermitted
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
_CHECK_SECONDS = 0.1

logger = logging.getLogger("questlog.log")

ReadCheckpoint = Callable[[], Position]
"""Returns how far the log has been read, according to its readers."""
_Behind = Callable[[int, int], bool]


class Displaced(LogUnavailable):
    """The files of this partition were removed or replaced while it was being written."""


def list_segments(folder: Path) -> dict[int, list[Segment]]:
    """Return each partition's segments in order of offsets."""
    partitions: dict[int, list[Segment]] = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as files:
        for file in files:
            match = _NAME.match(file.name)
            if match:
                partition, first = int(match.group(1)), int(match.group(2))
                partitions.setdefault(partition, []).append(Segment(partition, first, Path(file.path), file.inode()))
    for segments in partitions.values():
        segments.sort(key=lambda segment: segment.first)
    return dict(sorted(partitions.items()))


def list_gone(folder: Path) -> set[int]:
    """Return the partitions that the operator has declared lost."""
    return {int(m.group(1)) for m in map(_GONE.match, os.listdir(folder)) if m} if folder.is_dir() else set()


class Writer:
    """A claimed partition. Not safe for concurrent threads."""

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
        """Commit each of *chunks* as one row, all or none; return the first offset."""
        self._roll()
        self._check_current(every=_CHECK_SECONDS)
        first, received_ms, rows = self.next, time.time_ns() // 1_000_000, list[Stored]()
        for lines in chunks:
            rows.append(pack(rows[-1].end if rows else first, lines, received_ms, self._compressor))
        assert self._connection is not None
        write(self._connection, rows)
        self.next = rows[-1].end
        self._bytes += sum(len(row.payload) for row in rows)
        return first

    def probe(self) -> None:
        """Commit to the current segment and read the value back through another connection. Adds no record."""
        self._check_current(every=0)
        assert self._connection is not None
        token = secrets.randbelow(2**31 - 1) + 1
        self._connection.execute(f"pragma user_version = {token}")
        with contextlib.closing(read_sqlite(self._path)) as reader:
            stored = reader.execute("pragma user_version").fetchone()[0]
        if stored != token:
            raise LogUnavailable(f"{self._path} does not return what was written", hint="questlog doctor")

    def _roll(self) -> None:
        """Start a new segment when this one is large or old: space is freed by the segment."""
        old = self._bytes and time.monotonic() > self._began + self._segment_seconds
        if not old and self._bytes < self._segment_bytes:
            return
        sealed = self._connection
        self._begin_segment()
        assert sealed is not None
        with contextlib.suppress(sqlite3.Error):  # what stays in the WAL is just as safe
            sealed.execute("pragma wal_checkpoint(truncate)")
        with contextlib.suppress(sqlite3.Error):
            sealed.close()

    def _begin_segment(self) -> None:
        """Start a new segment. Never append to one that another process left: its last fsync may have failed.

        An empty one may be used: it holds nothing that could be lost.
        """
        path = self._folder / f"{self.partition:010}-{self.next:016}.db"
        if not path.exists():
            create(path, self.next)
        self._connection = open_writer(path)
        self._path, self._inode = path, path.stat().st_ino
        self._bytes, self._began, self._checked = 0, time.monotonic(), float("-inf")

    def _check_current(self, *, every: float) -> None:
        """Raise `Displaced` if the segment or the lock file is no longer the one at its path."""
        now = time.monotonic()
        if now < self._checked + every:
            return
        try:
            current = self._path.stat().st_ino == self._inode and self._lock.is_current()
        except FileNotFoundError:
            current = False
        if not current:
            raise Displaced(f"{self._path} was removed or replaced while it was in use", retry_after=1)
        self._checked = now

    def close(self) -> None:
        """Release the partition."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._lock.release()


def claim(folder: Path, checkpoint: ReadCheckpoint | None, *, segment_bytes: int, segment_seconds: float) -> Writer:
    """Claim a partition that no process writes to, or start a new one. The lock dies with the process.

    A partition whose files belong to another user and may not be written, such as root's, is skipped with a warning.
    A partition is identified by a random number. A log folder that was deleted or replaced has other numbers,
    so that a remembered position never points into the wrong log.
    """
    make_folder(folder)
    gone = list_gone(folder)
    existing = [partition for partition in list_segments(folder) if partition not in gone]
    behind = _behind_checkpoint(checkpoint if existing else None)
    for partition in existing:
        writer = _reclaim(folder, partition, behind, segment_bytes, segment_seconds)
        if writer is not None:
            return writer
    while True:
        partition = secrets.randbelow(2**31 - 1) + 1
        lock = None if partition in gone or partition in existing else _try_lock(folder, partition)
        if lock is not None:
            return Writer(folder, partition, lock, 0, segment_bytes=segment_bytes, segment_seconds=segment_seconds)


def seal(folder: Path, partition: int) -> None:
    """Start a new last segment in a partition that no process writes to, so that the old one can be trimmed."""
    writer = _reclaim(folder, partition, _behind_checkpoint(None), 0, 0)
    if writer is not None:
        writer.close()


class Trimmer:
    """Deletes old segments that are landed, in every partition, while others write and read."""

    def __init__(self, folder: Path, grace_seconds: float) -> None:
        self._folder, self._grace_seconds = folder, grace_seconds
        self._lock = threading.Lock()
        self._eligible_since: dict[Path, float] = {}

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Delete segments that are landed and old; return how many records they held.

        Every segment before an old one counts as old, so that a clock that was once wrong keeps no segment forever.
        A segment is deleted `grace_seconds` after it becomes eligible, by the monotonic clock, so that a reader
        whose position is slightly older still finds it.
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
        """Return whether the newest record is old. A damaged segment is as old as the next intact one."""
        try:
            with contextlib.closing(read_sqlite(segment.path)) as connection:
                age = read_age(connection)
        except (Damaged, FileNotFoundError):
            return False
        return age is not None and age < older_than_ms

    def _is_due(self, path: Path) -> bool:
        since = self._eligible_since.setdefault(path, time.monotonic())
        if time.monotonic() - since < self._grace_seconds:
            return False
        del self._eligible_since[path]
        return True


def _reclaim(
    folder: Path, partition: int, behind: _Behind, segment_bytes: int, segment_seconds: float
) -> Writer | None:
    try:
        lock = _try_lock(folder, partition)
    except NotPermitted as error:
        logger.warning("stage=append skipped partition %d: %s; %s", partition, error, error.hint)
        return None
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
    """Return a test: was *partition* read beyond *end*? Then it is an old copy and must not be written to."""
    if checkpoint is None:
        return lambda partition, end: False
    try:
        reached = checkpoint()
    except Exception:  # an unreadable checkpoint must not stop events from being accepted
        return lambda partition, end: True
    return lambda partition, end: reached.get(partition, 0) > end


def _usable_end(folder: Path, partition: int) -> int | None:
    """Return the next offset of a partition we hold, or None if it is damaged or another user's: it is only read."""
    for draft in folder.glob(f"{partition:010}-*.new"):  # left by a writer that died while it created a segment
        draft.unlink(missing_ok=True)
    segments = list_segments(folder).get(partition)
    if not segments:
        return None
    if not os.access(segments[-1].path, os.R_OK | os.W_OK):
        error = denied(segments[-1].path)
        logger.warning("stage=append skipped partition %d: %s; %s", partition, error, error.hint)
        return None
    try:
        with contextlib.closing(read_sqlite(segments[-1].path)) as connection:
            return read_tail(connection)
    except (Damaged, sqlite3.Error):
        return None


def _try_lock(folder: Path, partition: int) -> FileLock | None:
    """Return a lock on the partition, or None if another process holds it. A leftover file locks nothing.

    Raises `NotPermitted` if the file is another user's and may not be opened.
    """
    lock = FileLock(folder / f"{partition:010}.lock")
    if lock.take():
        return lock
    lock.release()
    return None
