"""Plain Parquet for tools without Iceberg: a folder per day, in files that any Parquet reader understands.

Compression is Snappy, timestamps are INT96 and decimals bytes: the encodings that Hive, Presto, Impala and Spark share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from questlog.stopping import StopSignal

Shown = Callable[[int, int, int], None]
"""Called with the number of rows written, of days done, and of all days."""


@dataclass(slots=True)
class Exported:
    """The export of one table: days written, days unchanged, days deleted, rows written."""

    written: list[str] = field(default_factory=list)
    unchanged: int = 0
    dropped: list[str] = field(default_factory=list)
    rows: int = 0


class Export(Protocol):
    """Writes the tables as plain Parquet, a folder per day."""

    def run(self, tables: Sequence[str], stop: StopSignal, shown: Shown) -> dict[str, Exported]:
        """Write the changed days of *tables*, or of all tables; return what was written, even if stopped early."""


def day_key(columns: Iterable[str]) -> str:
    """Return the name of the partition key: `day`, unless the table has a column of that name."""
    names = {name.lower() for name in columns}
    return next(name for name in ("day", "received_day", "_export_day") if name not in names)
