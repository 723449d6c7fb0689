"""One lander at a time: a lock file for the living, an epoch in every commit against the frozen."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from pathlib import Path
from types import TracebackType

from questlog.errors import LanderBusy
from questlog.lake.state import check_epoch, connect, transaction


class Lease:
    """Held while landing. A holder silent for *stale_seconds* is replaced; its next commit fails."""

    def __init__(self, catalog_path: Path, *, stale_seconds: float = 10.0) -> None:
        self._path = catalog_path
        self._stale_ms = int(stale_seconds * 1000)
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self.epoch = 0

    def __enter__(self) -> Lease:
        self._connection = connect(self._path)
        lock = os.open(self._path.parent / "lander.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock, free = lock, True
        except BlockingIOError:
            os.close(lock)
            free = False
        try:
            self._take(free)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _take(self, free: bool) -> None:
        assert self._connection is not None
        with transaction(self._connection) as connection:
            row = connection.execute("select epoch, pid, heartbeat_ms from questlog_lander").fetchone()
            epoch, pid, heartbeat_ms = row or (0, 0, 0)
            if not free and _now_ms() - heartbeat_ms < self._stale_ms:
                raise LanderBusy(
                    f"process {pid} is landing this project",
                    hint="it lands your events too; stop it to land from here",
                    retry_after=self._stale_ms / 1000,
                )
            self.epoch = epoch + 1
            connection.execute(
                "insert or replace into questlog_lander values (1, ?, ?, ?)",
                (self.epoch, os.getpid(), _now_ms()),
            )

    def beat(self) -> None:
        """Show that this lander lives; raise `LanderFenced` if it was replaced."""
        assert self._connection is not None
        with transaction(self._connection) as connection:
            check_epoch(connection, self.epoch)
            connection.execute("update questlog_lander set heartbeat_ms = ?", (_now_ms(),))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
