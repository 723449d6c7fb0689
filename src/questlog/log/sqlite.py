"""The embedded log: one SQLite file per partition, one row per group commit.

A process claims a free partition with a lock file, so writers never contend. Threads of one process
share commits: the first waiter writes for everybody who came meanwhile (leader and followers).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import zstandard

from questlog.errors import LogFull, LogUnavailable
from questlog.log import START, Batch, Entry, Gap, Position

_SCHEMA = """
create table if not exists batches (
  first integer primary key, count integer not null, received_ms integer not null,
  crc32 integer not null, payload blob not null
)"""
_NAME = re.compile(r"^(\d{4})\.db$")
_abandoned: list[object] = []  # connections of a parent process: never closed here, closing would checkpoint


class _Waiter:
    __slots__ = ("done", "error", "position", "records")

    def __init__(self, records: Sequence[bytes]) -> None:
        self.records = records
        self.done = threading.Event()
        self.position: Position = START
        self.error: LogUnavailable | None = None


class SqliteLog:
    """Keeps the contract of `Log` in a folder; safe for many threads, processes and readers at once."""

    def __init__(self, folder: Path, *, min_free_bytes: int = 64 << 20, retry_after: float = 5.0) -> None:
        self.folder = folder
        self.min_free_bytes = min_free_bytes
        self.retry_after = retry_after
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: list[_Waiter] = []
        self._leading = False
        self._writer: _Writer | None = None
        self._readers: dict[int, sqlite3.Connection] = {}
        self._read_lock = threading.Lock()

    def _check_fork(self) -> None:
        if self._pid != os.getpid():
            _abandoned.append((self._writer, self._readers))
            self._reset()

    # -- writing ---------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every record would survive a power cut.  1 queue  2 lead or wait  3 fsync."""
        if not records:
            return START
        self._check_fork()
        waiter = _Waiter(records)
        with self._lock:
            self._queue.append(waiter)
            lead = not self._leading
            self._leading = self._leading or lead
        if not lead:
            waiter.done.wait()
            lead = waiter.error is None and not waiter.position
        if lead:
            self._commit_queue(waiter)
        if waiter.error is not None:
            raise waiter.error
        return waiter.position

    def _commit_queue(self, own: _Waiter) -> None:
        """Commit everybody who queued, then wake the next leader, if any came meanwhile."""
        with self._lock:
            group, self._queue = self._queue, []
        try:
            self._commit(group)
        except LogUnavailable as error:
            for waiter in group:
                waiter.error = error
        with self._lock:
            successor = self._queue[0] if self._queue else None
            self._leading = successor is not None
        for waiter in group:
            if waiter is not own:
                waiter.done.set()
        if successor is not None:
            successor.done.set()  # woken without a position: it leads now

    def _commit(self, group: list[_Waiter]) -> None:
        try:
            if self._writer is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._writer = _claim(self.folder)
            self._refuse_when_full()
            offset = self._writer.write([r for waiter in group for r in waiter.records])
        except LogUnavailable:
            raise
        except (sqlite3.Error, OSError) as error:
            full = "full" in str(error) or getattr(error, "errno", None) == 28
            if self._writer is not None and not full:
                self._writer.close()  # never retry an fsync on the same descriptor
                self._writer = None
            kind = LogFull if full else LogUnavailable
            raise kind(
                f"the log in {self.folder} refused: {error}",
                hint="questlog doctor",
                retry_after=self.retry_after,
            ) from error
        partition = self._writer.partition
        for waiter in group:
            offset += len(waiter.records)
            waiter.position = {partition: offset}

    def _refuse_when_full(self) -> None:
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < self.min_free_bytes:
            raise LogFull(
                f"{free >> 20} MiB free under {self.folder}, less than the watermark of "
                f"{self.min_free_bytes >> 20} MiB",
                hint="free disk space; events are accepted again by themselves",
                retry_after=self.retry_after,
            )

    def close(self) -> None:
        """Give the partition back; everything appended is already durable."""
        self._check_fork()
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None
        with self._read_lock:
            for connection in self._readers.values():
                connection.close()
            self._readers.clear()

    # -- reading ---------------------------------------------------------------------------------

    def read(self, after: Position, limit: int) -> Batch:
        """Return about *limit* records past *after*, whole group commits, in order per partition."""
        entries: list[Entry] = []
        gaps: list[Gap] = []
        through = dict(after)
        with self._reading() as readers:
            for partition, connection in readers:
                if len(entries) >= limit:
                    break
                through[partition] = _read_partition(
                    connection, partition, after.get(partition, 0), limit - len(entries), entries, gaps
                )
        return Batch(entries, through, tuple(gaps))

    def end(self) -> Position:
        """Return the position just past everything durable now."""
        with self._reading() as readers:
            return {partition: _end(connection) for partition, connection in readers}

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Forget landed batches; the newest batch of a partition stays, it holds the next offset."""
        trimmed = 0
        for partition, path in self._files():
            with contextlib.closing(_connect(path)) as connection:
                cursor = connection.execute(
                    "delete from batches where first + count <= ? and received_ms < ?"
                    " and first < (select max(first) from batches)",
                    (before.get(partition, 0), older_than_ms),
                )
                trimmed += cursor.rowcount
                connection.commit()
        return trimmed

    def _files(self) -> list[tuple[int, Path]]:
        if not self.folder.is_dir():
            return []
        found = ((_NAME.match(p.name), p) for p in self.folder.iterdir())
        return sorted((int(m.group(1)), p) for m, p in found if m)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[list[tuple[int, sqlite3.Connection]]]:
        self._check_fork()
        with self._read_lock:
            for partition, path in self._files():
                if partition not in self._readers:
                    self._readers[partition] = _connect(path)
            yield sorted(self._readers.items())


def _read_partition(
    connection: sqlite3.Connection,
    partition: int,
    start: int,
    limit: int,
    entries: list[Entry],
    gaps: list[Gap],
) -> int:
    """Append the records of whole batches from *start* on; return the next offset."""
    taken = 0
    cursor = connection.execute(
        "select first, count, received_ms, crc32, payload from batches"
        " where first >= coalesce((select max(first) from batches where first <= ?), 0) order by first",
        (start,),
    )
    for first, count, received_ms, crc32, payload in cursor:
        if first + count <= start:
            continue
        if first > start:
            gaps.append(Gap(partition, start, first, "records are missing", received_ms))
        lines = _unpack(payload, crc32, count)
        if lines is None:
            gaps.append(Gap(partition, max(first, start), first + count, "checksum differs", received_ms))
        else:
            skip = max(0, start - first)
            entries.extend(Entry(partition, first + i, line, received_ms) for i, line in enumerate(lines) if i >= skip)
        start = first + count
        taken += count
        if taken >= limit:
            break
    return start


def _unpack(payload: bytes, crc32: int, count: int) -> list[bytes] | None:
    if zlib.crc32(payload) != crc32:
        return None
    lines: list[bytes] = zstandard.ZstdDecompressor().decompress(payload).split(b"\n")
    return lines if len(lines) == count else None


def _end(connection: sqlite3.Connection) -> int:
    row = connection.execute("select max(first), count from batches").fetchone()
    return 0 if row[0] is None else int(row[0] + row[1])


def _connect(path: Path) -> sqlite3.Connection:
    """Open with the settings that survived power cuts, and read them back: builds differ."""
    connection = sqlite3.connect(path, timeout=10, check_same_thread=False)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    journal = connection.execute("pragma journal_mode").fetchone()[0]
    level = connection.execute("pragma synchronous").fetchone()[0]
    if (journal, level) != ("wal", 2):
        raise LogUnavailable(
            f"{path} opened with journal_mode={journal}, synchronous={level}; wal and 2 are needed",
            hint="put the data folder on a local file system (QUESTLOG_DATA)",
        )
    connection.execute(_SCHEMA)
    return connection


class _Writer:
    """One claimed partition: its lock, its connection and its next offset."""

    def __init__(self, partition: int, path: Path, lock: int) -> None:
        self.partition = partition
        self._lock = lock
        existed = path.exists()
        self._connection = _connect(path)
        self._connection.isolation_level = None
        if not existed:
            _sync_folder(path.parent)
        self._next = _end(self._connection)
        self._compressor = zstandard.ZstdCompressor(level=1)

    def write(self, records: list[bytes]) -> int:
        """Commit *records* as one row; return the first offset."""
        first = self._next
        payload = self._compressor.compress(b"\n".join(records))
        self._connection.execute(
            "insert into batches values (?, ?, ?, ?, ?)",
            (first, len(records), time.time_ns() // 1_000_000, zlib.crc32(payload), payload),
        )
        self._next = first + len(records)
        return first

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)


def _claim(folder: Path) -> _Writer:
    """Claim the lowest partition nobody writes to. The lock dies with the process."""
    for partition in range(10_000):
        lock = os.open(folder / f"{partition:04}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        try:
            return _Writer(partition, folder / f"{partition:04}.db", lock)
        except BaseException:
            os.close(lock)
            raise
    raise LogUnavailable("10,000 processes write to this log", hint="stop some of them")


def _sync_folder(folder: Path) -> None:
    """fsync the folder and its parent too: a new file's name alone can vanish on power loss."""
    for each in (folder, folder.parent):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
