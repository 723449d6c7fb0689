"""SQL over the tables and the tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # importing Arrow takes a third of the time a small question takes
    import pyarrow as pa

    from questlog.query.catalog import TableColumns
    from questlog.query.result import Result

Params = Sequence[object] | Mapping[str, object]
"""Values for `?` and `$1`, or by name for `$name`."""


class QueryEngine(Protocol):
    """Answers SQL over events, each exactly once.

    The embedded engine covers every event acknowledged before the call, the cluster's every event landed before it.
    """

    def sql(self, text: str, params: Params = ()) -> pa.Table:
        """Run one reading statement; anything else raises `QueryError` and changes nothing."""

    def run(self, text: str, params: Params = ()) -> Result:
        """Run one reading statement as `sql` does; the result converts its rows when they are read."""

    def tables(self) -> TableColumns:
        """Return the columns of everything that can be queried, by name."""

    def close(self) -> None:
        """Release memory and files; the next query opens them again."""
