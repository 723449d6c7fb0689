"""What is committed to the cluster's tables, read through Presto from their snapshots without reading a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from questlog.lake.checkpoint import STATE, Checkpoint, decode_checkpoint
from questlog.log import Position, merge
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.query.presto.client import PrestoError, PrestoServer, run
from questlog.query.text import quote_text

GAP = "log_damaged"
"""The reason of a quarantine row that represents a lost part of a spool, and is not a record."""


@dataclass(frozen=True, slots=True)
class CommittedTable:
    """One table now. `position` is None for a table that no lander wrote."""

    rows: int
    files: int
    bytes: int
    committed_ms: int
    position: Position | None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """How many rows of quarantine have this event type and this reason."""

    event_type: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Committed:
    """Every table, and the checkpoint: the position and the counts that all of them share. `epoch` counts landers."""

    tables: Mapping[str, CommittedTable] = field(default_factory=dict)
    checkpoint: Position = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    epoch: int = 0
    committed_ms: int = 0
    quarantined: Sequence[Quarantined] = ()

    @property
    def landed(self) -> int:
        """Rows that landers wrote into event tables."""
        return sum(t.rows for n, t in self.tables.items() if n != QUARANTINE_TABLE and t.position is not None)

    @property
    def quarantined_records(self) -> int:
        """Rows of quarantine that represent a record."""
        table = self.tables.get(QUARANTINE_TABLE)
        return (table.rows if table else 0) - sum(q.rows for q in self.quarantined if q.reason == GAP)

    @property
    def half_landed(self) -> bool:
        """Whether a table is ahead of the checkpoint: a batch is being committed."""
        return any(merge(self.checkpoint, t.position or {}) != self.checkpoint for t in self.tables.values())


def read_committed(server: PrestoServer, seconds: float) -> Committed:
    """Return what the tables hold. No statement takes longer than *seconds*, or half of that without an answer.

    1 the checkpoint  2 the tables, which are therefore never behind it  3 quarantine by reason
    """
    newest = _checkpoint(server, seconds)
    if newest is None:
        return Committed()
    checkpoint, committed_ms = newest
    tables = _tables(server, seconds)
    return Committed(
        tables, checkpoint.position, checkpoint.counts, checkpoint.epoch, committed_ms,
        _reasons(server, seconds) if tables.get(QUARANTINE_TABLE) else (),
    )  # fmt: skip


def _checkpoint(server: PrestoServer, seconds: float) -> tuple[Checkpoint, int] | None:
    """Return the newest checkpoint and when it was committed; None if nothing ever landed."""
    snapshots = f'"{server.schema}_state"."progress$snapshots"'
    try:
        rows = run(server, f"select {_NEWEST} from {snapshots}", seconds, seconds / 2).rows
    except PrestoError as error:
        if error.name in _ABSENT or any(words in str(error) for words in ("does not exist", "Wrong table type")):
            return None  # Presto may report a missing table as a table of the wrong type
        raise
    ((*_, committed, text),) = rows
    return (decode_checkpoint(text), int(committed * 1000)) if text else None


_ABSENT = ("NOT_FOUND", "SCHEMA_NOT_FOUND", "TABLE_NOT_FOUND")
_SUMMARY = "max_by(element_at(summary, '{}'), committed_at)"
_COUNTED = ", ".join(map(_SUMMARY.format, ("total-records", "total-data-files", "total-files-size")))
_STATED = f"{_SUMMARY.format(STATE)} filter (where element_at(summary, '{STATE}') <> '')"
_NEWEST = f"{_COUNTED}, to_unixtime(max(committed_at)), {_STATED}"


def _tables(server: PrestoServer, seconds: float) -> dict[str, CommittedTable]:
    listed = run(
        server,
        "select table_name from information_schema.tables"
        f" where table_schema = {quote_text(server.schema)} and table_type = 'BASE TABLE'",
        seconds,
        seconds / 2,
    )
    parts = [f'select {quote_text(name)}, {_NEWEST} from "{name}$snapshots"' for (name,) in listed.rows]
    if not parts:
        return {}
    tables = {}
    for name, rows, files, size, committed, text in run(server, " union all ".join(parts), seconds, seconds / 2).rows:
        position = decode_checkpoint(text).position if text else None
        tables[name] = CommittedTable(
            int(rows or 0), int(files or 0), int(size or 0), int((committed or 0) * 1000), position
        )
    return dict(sorted(tables.items()))


def _reasons(server: PrestoServer, seconds: float) -> list[Quarantined]:
    text = f"select coalesce(event_type, ''), reason, count(*) from {QUARANTINE_TABLE} group by 1, 2 order by 3 desc"
    return [Quarantined(*row) for row in run(server, text, seconds, seconds / 2).rows]
