"""SQL over the tables and the tail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa


class QueryEngine(Protocol):
    """Answers SQL."""

    def sql(self, text: str, params: Sequence[object] = ()) -> pa.Table:
        """Run one statement."""
