"""The ledger: where every accepted record went. It must balance.

A table's rows are counted in the very transaction that moves the table, what became no row (duplicates,
records lost with a damaged part of the log) in the one that moves the checkpoint: no crash can skew them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from questlog.errors import Reason
from questlog.lake.guard import check_not_lost
from questlog.lake.state import LANDED, QUARANTINED, LedgerRow, connect, read_checkpoint, read_positions
from questlog.log import merge
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE


@dataclass(frozen=True, slots=True)
class Ledger:
    """What happened to every record up to now; `accepted` = the four outcomes + `waiting`.

    `read` counts records below the checkpoint. `imbalance` is 0 between two batches, always; while a batch
    is half landed its tables are ahead of the checkpoint, and `half_landed` says so.
    """

    rows: tuple[LedgerRow, ...] = ()
    accepted: int = 0
    read: int = 0
    half_landed: bool = False
    position: Mapping[int, int] = field(default_factory=dict)
    tables: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def total(self, outcome: str, table: str | None = None) -> int:
        """Return how many records had *outcome*, in one table or all."""
        return sum(r.records for r in self.rows if r.outcome == outcome and table in (None, r.table))

    @property
    def waiting(self) -> int:
        """Records accepted and not yet landed: the tail."""
        return self.accepted - self.read

    @property
    def imbalance(self) -> int:
        """Records read that had no outcome; anything but 0 between two batches is a defect."""
        return self.read - sum(row.records for row in self.rows)


def read_ledger(catalog: Path, end: Mapping[int, int]) -> Ledger:
    """Return the ledger of the catalog at *catalog*; *end* is the log's end, taken before the call.

    For `questlog status`: one consistent, read-only look. `Ledger.tables` maps each lake table to its
    (rows, files, bytes); rows per event type and quarantine per reason are in `Ledger.rows`; `waiting` is
    the lag in records. A project that never landed has an empty ledger with everything waiting.
    """
    check_not_lost(catalog)
    if not catalog.exists():
        return Ledger(accepted=sum(end.values()))
    with closing(connect(catalog)) as connection:
        connection.execute("begin")
        rows = tuple(LedgerRow(*row) for row in connection.execute("select * from questlog_ledger"))
        checkpoint = read_checkpoint(connection)
        ahead = any(
            offset > checkpoint.get(partition, 0)
            for position, _ in read_positions(connection).values()
            for partition, offset in position.items()
        )
        tables = {
            name: (count, files, size)
            for name, count, files, size in connection.execute(
                "select name, rows, (select count(*) from questlog_files where table_name = name), bytes"
                " from questlog_tables order by name"
            )
        }
        connection.execute("commit")
    read = sum(checkpoint.values())
    accepted = sum(merge(end, checkpoint).values())  # of a log that was lost, what was landed is what is known
    return Ledger(rows, accepted, read, ahead, checkpoint, tables)


def count_rows(table: str, rows: pa.Table, plan: Plan | None) -> list[LedgerRow]:
    """Return the ledger's rows for rows that go into *table*: by event type, in quarantine by reason too.

    A type the plan does not know is "": what strangers claim must not grow the ledger. The one row that
    stands for a damaged part of the log is no record; how many were lost is counted with the checkpoint.
    """
    quarantine = table == QUARANTINE_TABLE
    keys = ["event_type", "reason"] if quarantine else ["event_type"]
    if not set(keys) <= set(rows.column_names):
        return [LedgerRow(LANDED, table, "", "", rows.num_rows)]
    known = set(plan.events) if plan is not None else set()
    totals: Counter[tuple[str, str]] = Counter()
    for group in _counts(rows.select(keys)):
        event_type = group["event_type"] or ""
        reason = group["reason"] if quarantine else ""
        totals[event_type if event_type in known else "", reason] += group["count_all"]
    totals.pop(("", Reason.LOG_DAMAGED.value), None)
    outcome = QUARANTINED if quarantine else LANDED
    return [LedgerRow(outcome, table, event_type, reason, n) for (event_type, reason), n in totals.items()]


def uncount_rows(moved: pa.Table, ledger: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Return the ledger's rows for rows that leave quarantine.

    Each takes back what was counted when it came in: its type was "" if the plan of then did not know it.
    """
    known = {(r.event_type, r.reason): r.records for r in ledger if r.outcome == QUARANTINED}
    totals: Counter[tuple[str, str]] = Counter()
    for group in _counts(moved.select(["event_type", "reason"])):
        reason, left = group["reason"], group["count_all"]
        for event_type in dict.fromkeys([group["event_type"] or "", ""]):
            if reason == Reason.UNKNOWN_EVENT_TYPE.value and event_type:
                continue
            taken = min(left, known.get((event_type, reason), 0) - totals[event_type, reason])
            totals[event_type, reason] += taken
            left -= taken
    return [
        LedgerRow(QUARANTINED, QUARANTINE_TABLE, event_type, reason, -n) for (event_type, reason), n in totals.items()
    ]


def _counts(keys: pa.Table) -> list[dict[str, Any]]:
    """Return how often each combination of *keys* is there, as `count_all`."""
    import pyarrow.compute as pc  # only the lander counts rows

    if keys.num_columns == 1:  # a group by costs a millisecond even for one row
        counted = pc.value_counts(keys.column(0)).to_pylist()
        return [{keys.column_names[0]: each["values"], "count_all": each["counts"]} for each in counted]
    found: list[dict[str, Any]] = keys.group_by(keys.column_names).aggregate([([], "count_all")]).to_pylist()
    return found
