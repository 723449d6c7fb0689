"""The embedded log: a folder of SQLite files; every process that writes has a partition of its own.

Threads of one process share commits (../group.py). A partition is a row of segments (partition.py), a segment
one SQLite file (segment.py). Reading takes turns (reader.py), and goes page by page where a file is damaged
(salvage.py).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from questlog.durable import is_disk_full
from questlog.errors import LogFull, LogUnavailable
from questlog.log import START, Batch, Position
from questlog.log.group import GroupCommit, Waiter
from questlog.log.sqlite.partition import Displaced, ReadCheckpoint, Trimmer, Writer, claim
from questlog.log.sqlite.reader import Reader

UNLIMITED = 2**62
_T = TypeVar("_T")
_ROW_BYTES = 4 << 20
_MAX_RECORD_BYTES = 64 << 20
_LOOK_SECONDS = 0.1


class SqliteLog:
    """Keeps the contract of `Log` in a folder; safe for many threads, processes and readers at once."""

    def __init__(
        self,
        folder: Path,
        *,
        min_free_bytes: int = 64 << 20,
        min_free_files: int = 100,
        retry_after: float = 5.0,
        checkpoint: ReadCheckpoint | None = None,
        segment_bytes: int = 32 << 20,
        segment_seconds: float = 3600.0,
        trim_grace_seconds: float = 60.0,
    ) -> None:
        self.folder = folder
        self.min_free_bytes = min_free_bytes
        self.min_free_files = min_free_files
        self.retry_after = retry_after
        self._checkpoint = checkpoint
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._grace_seconds = trim_grace_seconds
        self._reset()
        _open_logs.add(self)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._group = GroupCommit(self._commit, max_size=_ROW_BYTES)
        self._commit_lock = threading.Lock()
        self._writer: Writer | None = None
        self._looked = float("-inf")
        self._reader = Reader(self.folder)
        self._trimmer = Trimmer(self.folder, self._grace_seconds)

    # -- writing ---------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every record would survive a power cut.

        After an error nothing was acknowledged; a record whose commit was cut short may still be there.
        """
        if not records:
            return START
        size = 0
        for record in records:
            if b"\n" in record:
                raise ValueError("a record is one line: it may not hold a line break")
            if len(record) > _MAX_RECORD_BYTES:
                raise ValueError(f"a record of {len(record)} bytes; the log takes up to {_MAX_RECORD_BYTES}")
            size += len(record) + 1
        self._check_fork()
        position: Position = self._group.submit(records, size)
        return position

    def _commit(self, group: Sequence[Waiter]) -> None:
        """Make a group durable, or raise `LogUnavailable`; the only code that touches the writer."""
        with self._commit_lock:
            rows = _rows([line for waiter in group for line in waiter.work])
            first, partition = self._guard(lambda: self._write(rows))
            for waiter in group:
                first += len(waiter.work)
                waiter.result = {partition: first}

    def _guard(self, work: Callable[[], _T]) -> _T:
        """Do what touches the writer; give the writer up after an error that leaves it in doubt."""
        try:
            return work()
        except LogFull:
            raise
        except Exception as error:
            full = is_disk_full(error, self.folder)
            if not (full and isinstance(error, sqlite3.Error) and error.sqlite_errorcode == sqlite3.SQLITE_FULL):
                self._drop_writer()  # never retry an fsync on the same descriptor
            raise self._refusal(error, full) from error
        except BaseException:
            self._drop_writer()  # it may have committed what it does not count
            raise

    def probe(self) -> None:
        """Show that an append would be durable now: write, fsync and read back, where records go. Adds no record."""
        self._check_fork()
        with self._commit_lock:
            self._looked = float("-inf")
            self._guard(self._probe)

    def _probe(self) -> None:
        self._refuse_when_full()
        if self._writer is None:
            self._writer = claim(
                self.folder, self._checkpoint, segment_bytes=self._segment_bytes, segment_seconds=self._segment_seconds
            )
        self._writer.probe()

    def _write(self, rows: Sequence[list[bytes]]) -> tuple[int, int]:
        """Commit *rows*; a log folder that was deleted under us begins anew, as it would after a restart."""
        self._refuse_when_full()
        if self._writer is not None:
            with contextlib.suppress(Displaced):
                return self._writer.append(rows), self._writer.partition
            self._drop_writer()
        self._writer = claim(
            self.folder, self._checkpoint, segment_bytes=self._segment_bytes, segment_seconds=self._segment_seconds
        )
        return self._writer.append(rows), self._writer.partition

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _refuse_when_full(self) -> None:
        """Raise `LogFull` when space or files run short; asked at most ten times a second."""
        now = time.monotonic()
        if now < self._looked + _LOOK_SECONDS:
            return
        disk = _statvfs(self.folder)
        free, files = disk.f_bavail * disk.f_frsize, disk.f_favail
        if free < self.min_free_bytes:
            short = f"{free >> 20} MiB free under {self.folder}, the watermark is {self.min_free_bytes >> 20} MiB"
        elif disk.f_files and files < self.min_free_files:  # some file systems do not count files: f_files is 0
            short = f"room for {files} more files under {self.folder}, the watermark is {self.min_free_files}"
        else:
            self._looked = now
            return
        raise LogFull(
            short, hint="free disk space; events are accepted again by themselves", retry_after=self.retry_after
        )

    def _refusal(self, error: Exception, full: bool) -> LogUnavailable:
        if isinstance(error, LogUnavailable):
            return error
        kind = LogFull if full else LogUnavailable
        hint = "free disk space; events are accepted again by themselves" if full else "questlog doctor"
        return kind(f"the log in {self.folder} refused: {error}", hint=hint, retry_after=self.retry_after)

    # -- reading and trimming --------------------------------------------------------------------

    def read(self, after: Position, limit: int, max_bytes: int = UNLIMITED) -> Batch:
        """Return about *limit* records past *after*, whole group commits, in order per partition.

        Partitions take turns, so a busy one does not starve a quiet one. What is damaged comes as gaps.
        """
        self._check_fork()
        return self._reader.read(after, limit, max_bytes)

    def end(self) -> Position:
        """Return the position just past everything durable now."""
        self._check_fork()
        return self._reader.end()

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Forget landed records below *before* received before *older_than_ms*; return how many.

        Their space goes back to the file system, file by file. A file is deleted `trim_grace_seconds`
        after it is first found ready, so that a reader that is a moment behind still finds it.
        """
        self._check_fork()
        return self._trimmer.trim(before, older_than_ms)

    # -- closing and forking ---------------------------------------------------------------------

    def close(self) -> None:
        """Give the partition back; everything appended is durable. The next use opens again."""
        self._check_fork()
        with self._commit_lock, self._reader.lock:
            self._release()

    def _release(self) -> None:
        self._drop_writer()
        self._reader.close()

    def _check_fork(self) -> None:
        """Start anew in a child that was forked past Python's hooks; its parent's connections stay untouched."""
        if self._pid != os.getpid():
            _abandoned.append((self._writer, self._reader))
            self._reset()


def _rows(lines: list[bytes]) -> list[list[bytes]]:
    """Return *lines* as one row, or as several where they are too many for one."""
    rows: list[list[bytes]] = [[]]
    size = 0
    for line in lines:
        if size + len(line) > _ROW_BYTES and rows[-1]:
            rows.append([])
            size = 0
        rows[-1].append(line)
        size += len(line) + 1
    return rows


def _statvfs(folder: Path) -> os.statvfs_result:
    """Return the file system's figures where *folder* is, or will be."""
    while True:
        try:
            return os.statvfs(folder)
        except FileNotFoundError:
            folder = folder.parent


_open_logs: weakref.WeakSet[SqliteLog] = weakref.WeakSet()
_forking: list[SqliteLog] = []
_abandoned: list[object] = []


def _before_fork() -> None:
    """Close everything: SQLite's connections and their locks must not be carried into a child."""
    _forking[:] = _open_logs
    for log in _forking:
        log._commit_lock.acquire()
        log._reader.lock.acquire()
        log._release()


def _after_fork_in_parent() -> None:
    for log in _forking:
        log._reader.lock.release()
        log._commit_lock.release()
    _forking.clear()


def _after_fork_in_child() -> None:
    for log in _forking:
        log._reset()
    _forking.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
