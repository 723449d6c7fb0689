"""The events on disk, from `track` until the collector has them: one SQLite file for all threads and processes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from questlog.durable import FileLock, open_sqlite, sync_folder
from questlog.errors import NotDurable, NotPermitted, QueueFull, QueueUnavailable
from questlog.log.group import GroupCommit, Waiter

OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected")
_GROUP_BYTES = 4 << 20
_BUSY_SECONDS = 20.0
_TABLES = """
create table if not exists event (sequence integer primary key autoincrement, body blob not null);
create table if not exists count (outcome text primary key, events integer not null);
"""
Result = TypeVar("Result")


class Waiting(NamedTuple):
    """One queued event: its sequence number, which is never reused, and its JSON."""

    sequence: int
    body: bytes


class Queue:
    """The queue file. *max_bytes* limits its size; removing events always works."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path, self.max_bytes = path, max_bytes
        self._reset()
        with self._lock:
            self._connect()
        _open_queues.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._group = GroupCommit(self._commit, max_size=_GROUP_BYTES)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._turn: FileLock | None = None

    # -- adding and removing -------------------------------------------------------------------

    def put(self, body: bytes) -> None:
        """Return only once the event would survive a power cut. Threads share a commit."""
        self._group.submit(body, len(body))

    def _commit(self, group: Sequence[Waiter]) -> None:
        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany("insert into event (body) values (?)", [(waiter.work,) for waiter in group])

        self._change(insert)
        for waiter in group:
            waiter.result = True

    def head(self, most: int, max_bytes: int) -> list[Waiting]:
        """Return the oldest events: at most *most* and *max_bytes*, but at least one if there is any."""

        def read(connection: sqlite3.Connection) -> list[Waiting]:
            waiting: list[Waiting] = []
            size = 0
            for sequence, body in connection.execute(
                "select sequence, body from event order by sequence limit ?", (most,)
            ):
                size += len(body)
                if waiting and size > max_bytes:
                    break
                waiting.append(Waiting(sequence, body))
            return waiting

        return self._use(read)

    def settle(self, done: Sequence[int], counts: Mapping[str, int]) -> None:
        """Remove the events *done* and count their outcomes, in one transaction."""

        def remove(connection: sqlite3.Connection) -> None:
            connection.executemany("delete from event where sequence = ?", [(sequence,) for sequence in done])
            rows = [(events, outcome) for outcome, events in counts.items()]
            connection.executemany("update count set events = events + ? where outcome = ?", rows)
            connection.execute("pragma incremental_vacuum(64)")

        self._change(remove)

    # -- reading ---------------------------------------------------------------------------------

    def last(self) -> int:
        """Return the sequence number of the newest waiting event, 0 if there is none."""
        return self._use(lambda c: int(c.execute("select coalesce(max(sequence), 0) from event").fetchone()[0]))

    def has_up_to(self, sequence: int) -> bool:
        """Return whether an event up to this sequence number is waiting."""
        question = "select exists (select 1 from event where sequence <= ?)"
        return self._use(lambda c: bool(c.execute(question, (sequence,)).fetchone()[0]))

    def counts(self) -> dict[str, int]:
        """Return how many events are waiting, and how many had each outcome."""

        def read(connection: sqlite3.Connection) -> dict[str, int]:
            waiting = connection.execute("select count(*) from event").fetchone()[0]
            return {"waiting": waiting, **dict(connection.execute("select outcome, events from count"))}

        return self._use(read)

    # -- whose turn it is to send ----------------------------------------------------------------

    def take_turn(self) -> bool:
        """Return whether this process may send now. Of the processes that share the file, one sends at a time."""
        if self._turn is not None:
            return True
        lock = FileLock(self.path.with_name(f"{self.path.name}.lock"), mode=0o600)
        with contextlib.suppress(OSError, NotPermitted):
            if lock.take():
                self._turn = lock
                return True
        lock.release()
        return False

    def give_turn(self) -> None:
        """Let another process send. The turn of a process that dies is given up, too."""
        lock, self._turn = self._turn, None
        if lock is not None:
            lock.release()

    def close(self) -> None:
        """Close the file. The next call opens it again."""
        self.give_turn()
        with self._lock:
            self._disconnect()

    # -- the connection --------------------------------------------------------------------------

    def _change(self, change: Callable[[sqlite3.Connection], None]) -> None:
        """Commit a change durably, or raise and change nothing."""

        def run(connection: sqlite3.Connection) -> None:
            connection.execute("begin immediate")
            try:
                change(connection)
                connection.execute("commit")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("rollback")
                raise

        self._use(run)

    def _use(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._lock:
            try:
                connection = self._connection
                if connection is None or not self._is_same_file():
                    connection = self._connect()
                return work(connection)
            except sqlite3.Error as error:
                raise self._refusal(error) from error
            except OSError as error:
                raise QueueUnavailable(f"the queue {self.path}: {error}", hint="give queue= another path") from error

    def _is_same_file(self) -> bool:
        """Return whether the open file is still the one at the path: events written to a removed file would be lost."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _connect(self) -> sqlite3.Connection:
        self._disconnect()
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = open_sqlite(
                self.path, wait_seconds=_BUSY_SECONDS, mode=0o600, setup="pragma auto_vacuum = incremental"
            )
            try:
                _prepare(connection, self.max_bytes)
            except BaseException:
                connection.close()
                raise
            # another process may have created the file and died before its name was on the disk
            sync_folder(self.path.parent)
            self._inode = os.stat(self.path).st_ino
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        except (OSError, NotDurable) as error:
            raise QueueUnavailable(f"the queue {self.path}: {error}", hint="give queue= another path") from error
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _refusal(self, error: sqlite3.Error) -> QueueUnavailable:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code != sqlite3.SQLITE_FULL and code != sqlite3.SQLITE_BUSY:
            self._disconnect()  # never retry an fsync on the same descriptor
        if code == sqlite3.SQLITE_FULL:
            return QueueFull(
                f"the queue {self.path} is full: its limit is {self.max_bytes >> 20} MiB, or the disk is full",
                hint="client.error gives the reason why events are not sent; max_queue_mb raises the limit",
                retry_after=5,
            )
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return QueueUnavailable(
                f"the queue {self.path} is damaged: {error}",
                hint="move the file away; the next event creates one",
            )
        return QueueUnavailable(f"the queue {self.path}: {error}", hint="try again", retry_after=1)


def _prepare(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Create the tables and set the size limit."""
    connection.execute("begin immediate")
    for statement in filter(str.strip, _TABLES.split(";")):
        connection.execute(statement)
    connection.executemany("insert or ignore into count values (?, 0)", [(outcome,) for outcome in OUTCOMES])
    connection.execute("commit")
    page = connection.execute("pragma page_size").fetchone()[0]
    connection.execute(f"pragma max_page_count = {max(16, max_bytes // page)}")


_open_queues: weakref.WeakSet[Queue] = weakref.WeakSet()
_forking: list[Queue] = []


def _before_fork() -> None:
    """Close the files: a child must not inherit SQLite connections and their locks."""
    _forking[:] = _open_queues
    for queue in _forking:
        queue._lock.acquire()
        queue._disconnect()


def _after_fork_in_parent() -> None:
    for queue in _forking:
        queue._lock.release()
    _forking.clear()


def _after_fork_in_child() -> None:
    for queue in _forking:
        queue.give_turn()  # closes only the child's copy: the turn stays with the parent
        queue._reset()
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
