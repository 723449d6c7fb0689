"""Notices that the clock was set, so that a wrong clock neither deletes files early nor keeps them forever."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from questlog.lake.state import check_epoch, transaction

SET_MS = 60_000
"""A clock that moves less against the monotonic clock was adjusted, not set; it shortens a grace by that at most."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TABLE = """
create table if not exists questlog_clock (
  id integer primary key check (id = 1), boot text not null, offset_ms integer not null, set_ms integer)"""


class WatchedClock:
    """The wall clock, and how long ago it was set.

    Nobody sets the monotonic clock, and all processes since a boot share it. The distance between the two is kept in
    the catalog, so that a lander also notices what happened before it started. A suspended machine counts as one whose
    clock was set: its queries were suspended, too. After a boot no query is left that could still read a file.
    """

    def __init__(
        self,
        state: sqlite3.Connection,
        epoch: int | None,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._epoch = state, epoch
        self._wall, self._monotonic = wall, monotonic
        self._stored: tuple[int, int | None] | None = None

    def now_ms(self) -> int:
        """Return the wall clock's time."""
        return int(self._wall() * 1000)

    def steady_ms(self) -> int | None:
        """Return how long ago the clock was set, by the monotonic clock, or None if it was not set since the boot.

        If the clock was set, and once per process, garbage dated in the future is dated now.
        """
        monotonic_ms = int(self._monotonic() * 1000)
        offset_ms = self.now_ms() - monotonic_ms
        latest = self._stored or self._load() or (offset_ms, None)
        if abs(offset_ms - latest[0]) > SET_MS:
            latest = (offset_ms, monotonic_ms)
        if latest != self._stored:
            self._save(*latest)
            self._stored = latest
        return None if latest[1] is None else monotonic_ms - latest[1]

    def _load(self) -> tuple[int, int | None] | None:
        self._state.execute(_TABLE)
        row: tuple[int, int | None] | None = self._state.execute(
            "select offset_ms, set_ms from questlog_clock where boot = ?", (_boot(),)
        ).fetchone()
        return row

    def _save(self, offset_ms: int, set_ms: int | None) -> None:
        now_ms = self.now_ms()
        with transaction(self._state) as connection:
            check_epoch(connection, self._epoch)
            connection.execute(
                "insert or replace into questlog_clock values (1, ?, ?, ?)", (_boot(), offset_ms, set_ms)
            )
            connection.execute("update questlog_garbage set since_ms = ?1 where since_ms > ?1", (now_ms,))


def _boot() -> str:
    """Return what identifies this boot, "" if the machine does not report it: then a boot counts as a set clock."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
