"""Plain Parquet for tools without Iceberg: a folder per day, files that any reader of Parquet understands.

Snappy; timestamps as INT96 and decimals as bytes, which is what Hive, Presto, Impala and Spark agree on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from questlog.stopping import StopSignal

Shown = Callable[[int, int, int], None]
"""To be told how many rows are written, and how many of how many days are done."""


@dataclass(slots=True)
class Exported:
    """What became of one table: days written, days that had not changed, days that are gone, rows written."""

    written: list[str] = field(default_factory=list)
    unchanged: int = 0
    dropped: list[str] = field(default_factory=list)
    rows: int = 0


class Export(Protocol):
    """Writes the tables as plain Parquet, a folder per day."""

    def run(self, tables: Sequence[str], stop: StopSignal, shown: Shown) -> dict[str, Exported]:
        """Write the days that have changed of *tables*, or of all tables; return what was done by then if stopped."""


def day_key(columns: Iterable[str]) -> str:
    """Return the name of the folders' key: `day`, unless the table has a column of that name."""
    taken = {name.lower() for name in columns}
    return next(name for name in ("day", "received_day", "_export_day") if name not in taken)
