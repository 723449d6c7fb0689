"""The ledger: the outcome of every accepted record. It must balance.

A table's rows are counted in the transaction that commits them. Records that became no row (duplicates, records in a
damaged part of the log) are counted in the transaction that moves the checkpoint. So no crash makes the counts wrong.
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
    """What became of every record: `accepted` = the four outcomes + `waiting`.

    `read` counts the records below the checkpoint. Between two batches `imbalance` is always 0. `half_landed` is
    true while a batch is half landed: some tables are then ahead of the checkpoint.
    """

    rows: tuple[LedgerRow, ...] = ()
    accepted: int = 0
    read: int = 0
    half_landed: bool = False
    position: Mapping[int, int] = field(default_factory=dict)
    tables: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def total(self, outcome: str, table: str | None = None) -> int:
        """Return how many records had *outcome*, in one table or in all."""
        return sum(r.records for r in self.rows if r.outcome == outcome and table in (None, r.table))

    @property
    def waiting(self) -> int:
        """Records that are accepted but not yet landed: the tail."""
        return self.accepted - self.read

    @property
    def imbalance(self) -> int:
        """Records that were read but have no outcome; between two batches, anything but 0 is a defect."""
        return self.read - sum(row.records for row in self.rows)


def read_ledger(catalog: Path, end: Mapping[int, int]) -> Ledger:
    """Return the ledger of the catalog at *catalog*; *end* is the log's end, taken before the call.

    One consistent read, for `questlog status`. `Ledger.tables` maps each lake table to (rows, files, bytes).
    `Ledger.rows` has the rows per event type and the quarantined records per reason. `waiting` is the lag in
    records. A project that has never landed has an empty ledger, and all of its records are waiting.
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
    accepted = sum(merge(end, checkpoint).values())  # of a lost log, only the landed records are known
    return Ledger(rows, accepted, read, ahead, checkpoint, tables)


def count_rows(table: str, rows: pa.Table, plan: Plan | None) -> list[LedgerRow]:
    """Return the ledger's rows for rows added to *table*: by event type, and in quarantine also by reason.

    A type that is not in the plan is counted as "", because senders must not be able to grow the ledger. The row
    that stands for a damaged part of the log is not counted here; the lost records are counted with the checkpoint.
    """
    quarantine = table == QUARANTINE_TABLE
    keys = ["event_type", "reason"] if quarantine else ["event_type"]
    if not set(keys) <= set(rows.column_names):
        return [LedgerRow(LANDED, table, "", "", rows.num_rows)]
    planned = set(plan.events) if plan is not None else set()
    totals: Counter[tuple[str, str]] = Counter()
    for group in _counts(rows.select(keys)):
        event_type = group["event_type"] or ""
        reason = group["reason"] if quarantine else ""
        totals[event_type if event_type in planned else "", reason] += group["count_all"]
    totals.pop(("", Reason.LOG_DAMAGED.value), None)
    outcome = QUARANTINED if quarantine else LANDED
    return [LedgerRow(outcome, table, event_type, reason, n) for (event_type, reason), n in totals.items()]


def uncount_rows(moved: pa.Table, ledger: Sequence[LedgerRow]) -> list[LedgerRow]:
    """Return the ledger's rows for rows that leave quarantine.

    They subtract what was counted when the rows came in: the type was "" if the plan did not declare it then.
    """
    quarantined = {(r.event_type, r.reason): r.records for r in ledger if r.outcome == QUARANTINED}
    totals: Counter[tuple[str, str]] = Counter()
    for group in _counts(moved.select(["event_type", "reason"])):
        reason, left = group["reason"], group["count_all"]
        for event_type in dict.fromkeys([group["event_type"] or "", ""]):
            if reason == Reason.UNKNOWN_EVENT_TYPE.value and event_type:
                continue
            removed = min(left, quarantined.get((event_type, reason), 0) - totals[event_type, reason])
            totals[event_type, reason] += removed
            left -= removed
    return [
        LedgerRow(QUARANTINED, QUARANTINE_TABLE, event_type, reason, -n) for (event_type, reason), n in totals.items()
    ]


def _counts(keys: pa.Table) -> list[dict[str, Any]]:
    """Return how often each combination of *keys* occurs, as `count_all`."""
    import pyarrow.compute as pc  # only the lander counts rows

    if keys.num_columns == 1:  # group_by takes a millisecond even for one row
        counted = pc.value_counts(keys.column(0)).to_pylist()
        return [{keys.column_names[0]: each["values"], "count_all": each["counts"]} for each in counted]
    groups: list[dict[str, Any]] = keys.group_by(keys.column_names).aggregate([([], "count_all")]).to_pylist()
    return groups
