"""Defects that a child process of the fault tests can apply to itself before its program starts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

_STAGES = ("questlog.log", "questlog.land", "questlog.lake", "questlog.durable")


def signal_at_step(how: list[int]) -> None:
    """Send this process the signal `how[1]` just before the `how[0]`-th call in log, land or lake."""
    left, number = how

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event.endswith("call") and str(frame.f_globals.get("__name__")).startswith(_STAGES):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    sys.setprofile(count)
    threading.setprofile(count)


def no_fsync(_: Any) -> None:
    """Let the log and the lake write as before, but never wait for the disk."""
    from questlog.log.sqlite import partition

    opened = partition.open_writer

    def open_writer(path: Path) -> Any:
        connection = opened(path)
        connection.execute("pragma synchronous = off")
        return connection

    partition.open_writer = open_writer
    os.fsync = lambda descriptor: None


def drop_logged(every: int) -> None:
    """Lose one record in *every* on its way to the log file, although it is answered with 2xx."""
    from questlog.log.sqlite import SqliteLog

    write, seen = SqliteLog._write, 0

    def lossy(self: SqliteLog, rows: Any) -> Any:
        nonlocal seen
        kept = []
        for row in rows:
            kept.append([])
            for line in row:
                seen += 1
                if seen % every:
                    kept[-1].append(line)
        return write(self, [row for row in kept if row])

    SqliteLog._write = lossy  # type: ignore[method-assign]


def drop_landed(every: int) -> None:
    """Lose one record in *every* between the log and the tables."""
    from questlog.land import loop

    shape, seen = loop.shape, 0

    def lossy(entries: Any, *args: Any, **named: Any) -> Any:
        nonlocal seen
        kept = []
        for entry in entries:
            seen += 1
            if seen % every:
                kept.append(entry)
        return shape(kept, *args, **named)

    loop.shape = lossy


def no_skip(_: Any) -> None:
    """Let each table accept rows that it already has."""
    from questlog.land import loop

    shape = loop.shape
    loop.shape = lambda *args, committed=None, **named: shape(*args, **named)


def position_apart(_: Any) -> None:
    """Commit a table's position after its rows, in a separate transaction, as a position file does."""
    from questlog.lake import iceberg
    from questlog.lake.checkpoint import encode_position
    from questlog.lake.state import transaction

    save, move = iceberg._save_table, iceberg.IcebergTables._move

    def save_rows_only(connection: Any, table: str, *args: Any) -> None:
        query = "select position from questlog_tables where name = ?"
        before = connection.execute(query, (table,)).fetchone()
        save(connection, table, *args)
        old = before[0] if before else encode_position({})
        connection.execute("update questlog_tables set position = ? where name = ?", (old, table))

    def move_apart(self: Any, steps: Any, *args: Any) -> None:
        move(self, steps, *args)
        with transaction(self.state) as connection:
            for step in steps:
                position = encode_position(iceberg._checkpoint(step.change.version.metadata).position)
                connection.execute("update questlog_tables set position = ? where name = ?", (position, step.table))

    iceberg._save_table = save_rows_only
    iceberg.IcebergTables._move = move_apart  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[Any], None]] = {
    each.__name__: each for each in (signal_at_step, no_fsync, drop_logged, drop_landed, no_skip, position_apart)
}
