"""The log up to one position, without the records that are logged later."""

from __future__ import annotations

from questlog.log import Batch, LogReader, Position, cut_gaps, merge


class LogPrefix:
    """Reads *log* as if it ended at *until*, however much is written after that."""

    def __init__(self, log: LogReader, until: Position) -> None:
        self._log, self._until = log, until

    def read(self, after: Position, limit: int, max_bytes: int = 2**62) -> Batch:
        """Return what the log returns, without the records at or after *until*."""
        position, begun = dict(after), dict(after)
        while batch := self._log.read(position, limit, max_bytes):
            entries = [e for e in batch.entries if e.offset < self._until.get(e.partition, 0)]
            gaps = tuple(cut_gaps(batch.gaps, self._until))
            position = merge(position, batch.through)
            if entries or gaps:
                through = {p: max(min(o, self._until.get(p, 0)), begun.get(p, 0)) for p, o in position.items()}
                return Batch(entries, through, gaps)
        return Batch((), after)

    def end(self) -> Position:
        """Return the position where it ends."""
        return self._until

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Trim nothing: this is a view for readers."""
        return 0
