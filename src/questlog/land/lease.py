"""One lander at a time: a lock file keeps out running landers, an epoch in every commit fences frozen ones."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from questlog.durable import FileLock
from questlog.errors import LanderBusy
from questlog.lake.state import check_epoch, connect, transaction

STALE_SECONDS = 10.0


class Lease:
    """Held while landing. A holder without a heartbeat for *stale_seconds* is replaced, and its next commit fails.

    The lock dies with its process, so a killed lander can be replaced at once. A frozen one keeps the lock but no
    longer touches the lock file: its successor lands without the lock and takes it when it becomes free.
    """

    def __init__(self, catalog_path: Path, *, stale_seconds: float = STALE_SECONDS) -> None:
        self._path = catalog_path
        self._stale_seconds = stale_seconds
        self._lock = FileLock(_lock_path(catalog_path))
        self._locked = False
        self._connection: sqlite3.Connection | None = None
        self.epoch = 0

    def __enter__(self) -> Lease:
        self._connection = connect(self._path)
        try:
            self._locked = self._lock.take()
            self._take(self._connection)
            self._lock.touch()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _take(self, connection: sqlite3.Connection) -> None:
        """Take the next epoch unless another lander is alive.  1 lock  2 last heartbeat  3 epoch."""
        silent = self._lock.silent_seconds()
        with transaction(connection):
            row = connection.execute("select epoch, pid, command, since_ms, locked from questlog_lander").fetchone()
            epoch, pid, command, since_ms, locked = row or (0, 0, "", 0, 1)
            alive = not self._locked or (not locked and _exists(pid))
            if alive and silent < self._stale_seconds:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(since_ms / 1000))
                raise LanderBusy(
                    f"process {pid} ({command}) has been landing this project since {since} UTC",
                    hint=f"it also lands your events; to land from here, stop it (kill {pid})",
                    retry_after=self._stale_seconds,
                )
            self.epoch = epoch + 1
            connection.execute(
                "insert or replace into questlog_lander values (1, ?, ?, ?, ?, ?)",
                (self.epoch, os.getpid(), _command(), time.time_ns() // 1_000_000, int(self._locked)),
            )

    def heartbeat(self) -> None:
        """Show that this lander is alive; raise `LanderFenced` if it was replaced."""
        assert self._connection is not None
        check_epoch(self._connection, self.epoch)
        self._lock.touch()
        if not self._locked and self._lock.take():
            self._locked = True
            with transaction(self._connection) as connection:
                check_epoch(connection, self.epoch)
                connection.execute("update questlog_lander set locked = 1")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._lock.release()
        self._locked = False


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that landed last, its command and start time; `alive` if its heartbeat is recent."""

    pid: int
    command: str
    since_ms: int
    alive: bool


def last_holder(catalog: Path, *, stale_seconds: float = STALE_SECONDS) -> Holder | None:
    """Return the current or last holder of the lease, or None if there never was one. Takes no lock."""
    if not catalog.exists():
        return None
    with closing(connect(catalog)) as connection:
        row = connection.execute("select pid, command, since_ms from questlog_lander").fetchone()
    if row is None:
        return None
    try:
        silent = abs(time.time() - _lock_path(catalog).stat().st_mtime)
    except FileNotFoundError:
        silent = stale_seconds
    pid, command, since_ms = row
    return Holder(pid, command, since_ms, _exists(pid) and silent < stale_seconds)


def _lock_path(catalog: Path) -> Path:
    return catalog.parent / "lander.lock"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _command() -> str:
    if not sys.argv:
        return "python"
    path = Path(sys.argv[0])
    name = path.parent.name if path.name == "__main__.py" else path.name
    return " ".join([name, *sys.argv[1:]])[:80]
