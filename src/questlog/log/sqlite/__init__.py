"""The embedded log: a folder of SQLite files, in which every writing process has its own partition.

Threads of one process share commits (../group.py). A partition is a sequence of segments (partition.py), and a
segment is one SQLite file (segment.py). Readers take partitions in turn (reader.py) and read a damaged file page by
page (salvage.py).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from questlog.durable import is_disk_full
from questlog.errors import LogFull, LogUnavailable, NotPermitted
from questlog.log import START, Batch, Position
from questlog.log.group import GroupCommit, Waiter
from questlog.log.sqlite.partition import Displaced, ReadCheckpoint, Trimmer, Writer, claim
from questlog.log.sqlite.reader import Reader

UNLIMITED = 2**62
_ROW_BYTES = 4 << 20
_MAX_RECORD_BYTES = 64 << 20
_CHECK_SECONDS = 0.1


class SqliteLog:
    """Implements `Log` in a folder. Safe for concurrent threads, processes and readers."""

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
        self._checked = float("-inf")
        self._reader = Reader(self.folder)
        self._trimmer = Trimmer(self.folder, self._grace_seconds)

    # -- writing ---------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every record would survive a power cut.

        After an error nothing is acknowledged, but records whose commit was interrupted may still be in the log.
        """
        if not records:
            return START
        size = 0
        for record in records:
            if b"\n" in record:
                raise ValueError("a record is one line and cannot contain a line break")
            if len(record) > _MAX_RECORD_BYTES:
                raise ValueError(f"the record has {len(record)} bytes; the log accepts up to {_MAX_RECORD_BYTES}")
            size += len(record) + 1
        self._check_fork()
        position: Position = self._group.submit(records, size)
        return position

    def _commit(self, group: Sequence[Waiter]) -> None:
        """Make a group durable, or raise `LogUnavailable`."""
        with self._commit_lock:
            rows = _rows([line for waiter in group for line in waiter.work])
            try:
                first, partition = self._write(rows)
            except BaseException as error:
                self._fail(error)
            for waiter in group:
                first += len(waiter.work)
                waiter.result = {partition: first}

    def _write(self, rows: Sequence[list[bytes]]) -> tuple[int, int]:
        """Commit *rows*. If the log folder was deleted, start a new partition, as a restart would."""
        self._refuse_when_full()
        if self._writer is not None:
            with contextlib.suppress(Displaced):
                return self._writer.append(rows), self._writer.partition
            self._drop_writer()
        writer = self._claim()
        return writer.append(rows), writer.partition

    def probe(self) -> None:
        """Check that an append would be durable: write, fsync and read back in the current segment. Adds no record."""
        self._check_fork()
        with self._commit_lock:
            self._checked = float("-inf")
            try:
                self._refuse_when_full()
                (self._writer or self._claim()).probe()
            except BaseException as error:
                self._fail(error)

    def _claim(self) -> Writer:
        self._writer = claim(
            self.folder, self._checkpoint, segment_bytes=self._segment_bytes, segment_seconds=self._segment_seconds
        )
        return self._writer

    def _fail(self, error: BaseException) -> NoReturn:
        """Raise *error* in the caller's terms; discard the writer if the error leaves its state unknown."""
        if isinstance(error, LogFull):
            raise error
        full = isinstance(error, Exception) and is_disk_full(error, self.folder)
        if not (full and getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL):
            # Never retry an fsync on the same descriptor; after an interrupt, the last commit may have succeeded.
            self._drop_writer()
        if not isinstance(error, Exception):
            raise error
        raise self._refusal(error, full) from error

    def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _refuse_when_full(self) -> None:
        """Raise `LogFull` when disk space or inodes run short; checks at most ten times a second."""
        now = time.monotonic()
        if now < self._checked + _CHECK_SECONDS:
            return
        disk = _statvfs(self.folder)
        free, files = disk.f_bavail * disk.f_frsize, disk.f_favail
        if free < self.min_free_bytes:
            shortage = f"{free >> 20} MiB free under {self.folder}; the watermark is {self.min_free_bytes >> 20} MiB"
        elif disk.f_files and files < self.min_free_files:  # f_files is 0 where files are not counted
            shortage = f"room for {files} more files under {self.folder}; the watermark is {self.min_free_files}"
        else:
            self._checked = now
            return
        raise LogFull(shortage, hint="free disk space; events are then accepted again", retry_after=self.retry_after)

    def _refusal(self, error: Exception, full: bool) -> LogUnavailable:
        if isinstance(error, LogUnavailable):
            return error
        if isinstance(error, NotPermitted):
            return LogUnavailable(f"the log cannot be written: {error}", hint=error.hint, retry_after=self.retry_after)
        kind = LogFull if full else LogUnavailable
        hint = "free disk space; events are then accepted again" if full else "questlog doctor"
        return kind(f"the log in {self.folder} cannot be written: {error}", hint=hint, retry_after=self.retry_after)

    # -- reading and trimming --------------------------------------------------------------------

    def read(self, after: Position, limit: int, max_bytes: int = UNLIMITED) -> Batch:
        """Return about *limit* records past *after*, whole group commits, in order per partition.

        Partitions take turns, so that a busy one does not starve a quiet one. Damaged records are reported as gaps.
        """
        self._check_fork()
        return self._reader.read(after, limit, max_bytes)

    def end(self) -> Position:
        """Return the position just past everything durable now."""
        self._check_fork()
        return self._reader.end()

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Delete records that are below *before* and were received before *older_than_ms*; return how many.

        Space is freed file by file. A file is deleted `trim_grace_seconds` after it becomes eligible, so that a
        reader that is slightly behind still finds it.
        """
        self._check_fork()
        return self._trimmer.trim(before, older_than_ms)

    # -- closing and forking ---------------------------------------------------------------------

    def close(self) -> None:
        """Release the partition. Everything appended is durable, and the next call opens the log again."""
        self._check_fork()
        with self._commit_lock, self._reader.lock:
            self._release()

    def _release(self) -> None:
        self._drop_writer()
        self._reader.close()

    def _check_fork(self) -> None:
        """Reset in a child that was forked without Python's hooks; leave the parent's connections alone."""
        if self._pid != os.getpid():
            _abandoned.append((self._writer, self._reader))
            self._reset()


def _rows(lines: list[bytes]) -> list[list[bytes]]:
    """Return *lines* as one row, or as several if they are too large for one."""
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
    """Return the statistics of the file system that holds, or will hold, *folder*."""
    while True:
        try:
            return os.statvfs(folder)
        except FileNotFoundError:
            folder = folder.parent


_open_logs: weakref.WeakSet[SqliteLog] = weakref.WeakSet()
_forking: list[SqliteLog] = []
_abandoned: list[object] = []


def _before_fork() -> None:
    """Close everything: a child must not inherit SQLite connections and their locks."""
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
