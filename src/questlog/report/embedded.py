"""The report of the embedded profile: the ledger, and per table where its events are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from questlog.lake.ledger import Ledger, read_ledger
from questlog.land.lease import last_holder
from questlog.log.kafka.spool import keep_from, read_handover
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.report import ActiveLander, EmbeddedReport, PromotionState, TableCounts

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from questlog.log import LogReader, Position
    from questlog.plan import Plan
    from questlog.query.duckdb import DuckDBEngine
    from questlog.settings import Project


def report_embedded(project: Project, plan: Plan, log: LogReader, engine: DuckDBEngine) -> EmbeddedReport:
    """Return the project's report. Shapes the whole tail: a long tail takes time and memory."""
    end = log.end()
    ledger = read_ledger(project.catalog, end)
    tables = _count(plan, ledger, engine)
    totals = _totals(ledger)
    return EmbeddedReport(
        project=project.root,
        plan_version=plan.version,
        balanced=totals["accepted"] == sum(n for name, n in totals.items() if name != "accepted"),
        ledger=totals,
        tables=[_table(name, counts) for name, counts in tables.items()],
        quarantine=dict(sorted(tables[QUARANTINE_TABLE].reasons.items())),
        lander=_lander(project.catalog),
        promoted=_promotion(project.data, end),
    )


def _totals(ledger: Ledger) -> dict[str, int]:
    """Return how many events were accepted, how many had each outcome, and how many are in the tail.

    While a batch is half landed, some tables are ahead of the checkpoint: the tail is then every event without an
    outcome.
    """
    outcomes = {name: ledger.total(name) for name in ("landed", "quarantined", "duplicate", "damaged")}
    tail = ledger.accepted - sum(outcomes.values()) if ledger.half_landed else ledger.waiting
    return {"accepted": ledger.accepted, **outcomes, "tail": tail}


@dataclass(slots=True)
class _Counts:
    landed: int = 0
    tail: int = 0
    quarantined: int = 0
    duplicate: int = 0
    files: int = 0
    bytes: int = 0
    lag_ms: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def _count(plan: Plan, ledger: Ledger, engine: DuckDBEngine) -> dict[str, _Counts]:
    """Return each table's counts, quarantine last; events of an unknown type count as quarantine's."""
    state, tail = engine.holdings()
    names = sorted({*plan.tables, *ledger.tables} - {QUARANTINE_TABLE})
    counts = {name: _Counts() for name in [*names, QUARANTINE_TABLE]}
    table_of = {name: event.table for name, event in plan.events.items()}
    for row in ledger.rows:
        if row.outcome == "quarantined":
            counts[table_of.get(row.event_type, QUARANTINE_TABLE)].quarantined += row.records
            counts[QUARANTINE_TABLE].reasons[row.reason] += row.records
        elif row.outcome == "duplicate":
            counts[row.table if row.table in counts else QUARANTINE_TABLE].duplicate += row.records
    for name, landed in state.tables.items():
        table = counts.setdefault(name, _Counts())
        table.landed, table.files, table.bytes = landed.rows, len(landed.files), landed.bytes
    for name, rows in tail.items():
        counts[name].tail, counts[name].lag_ms = rows.num_rows, _age_ms(rows)
    return counts


def _age_ms(rows: pa.Table) -> int:
    """Return the age of the oldest row."""
    import pyarrow.compute as pc

    oldest: int = pc.min(rows["received_time"]).cast("int64").as_py() // 1000
    return max(0, time.time_ns() // 1_000_000 - oldest)


def _table(name: str, counts: _Counts) -> TableCounts:
    rows = counts.landed + counts.tail if name != QUARANTINE_TABLE else 0
    return TableCounts(
        table=name,
        accepted=rows + counts.quarantined + counts.duplicate,
        landed=counts.landed,
        tail=counts.tail,
        quarantined=counts.quarantined,
        duplicate=counts.duplicate,
        files=counts.files,
        bytes=counts.bytes,
        lag_ms=counts.lag_ms,
    )


def _lander(catalog: Path) -> ActiveLander | None:
    holder = last_holder(catalog)
    return ActiveLander(holder.pid, holder.command, holder.since_ms) if holder is not None and holder.alive else None


def _promotion(data: Path, end: Position) -> PromotionState | None:
    """Return the state of the project's promotion; None if there was none."""
    handover = read_handover(data)
    if handover is None:
        return None
    sent: Mapping[int, int] | None = keep_from(data)
    since = None if sent is None else sum(offset - sent.get(partition, 0) for partition, offset in end.items())
    return PromotionState(handover.target, handover.state == "sealed", since)
