"""The lake: Iceberg tables, each of which records how much of the log it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from questlog.log import Position

if TYPE_CHECKING:
    import pyarrow as pa


class Tables(Protocol):
    """Lake tables, each of which records how much of the log it holds."""

    def commit(self, table: str, rows: pa.Table, through: Position, plan_version: str) -> None:
        """Add *rows* and record *through* in one atomic step that survives a power cut."""

    def position(self, table: str) -> Position:
        """Return the last *through* committed to *table*, or START."""

    def files(self, table: str) -> Sequence[str]:
        """Return the data files a reader may open now."""
