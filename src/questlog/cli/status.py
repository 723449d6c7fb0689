"""`questlog status`: the ledger that must balance, and per table where its events are."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from questlog.cli.rows import human_bytes, table_text
from questlog.lake.ledger import Ledger, read_ledger
from questlog.land.lease import last_holder
from questlog.log import Position
from questlog.log.kafka.spool import needed, read_handover
from questlog.pipeline import ClusterPipeline, Pipeline, open_pipeline

if TYPE_CHECKING:
    import pyarrow as pa

QUARANTINE = "quarantine"
_COLUMNS = ("table", "accepted", "landed", "tail", "quarantined", "duplicate", "files", "bytes", "lag")


@dataclass(slots=True)
class _Table:
    """Where one table's events are. `lag_ms` is the age of the oldest that is not landed."""

    landed: int = 0
    tail: int = 0
    quarantined: int = 0
    duplicate: int = 0
    files: int = 0
    bytes: int = 0
    lag_ms: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(folder: Path, as_json: bool) -> None:
    """Show per table where its events are, and the ledger: every accepted event is somewhere, once.

    On the cluster profile: this machine's spool and forwarder, the topic, and the tables as Presto finds them.

    Exits with 1 if the ledger does not balance, or, on the cluster profile, if something is in the way.
    """
    pipeline = open_pipeline(folder)
    if isinstance(pipeline, ClusterPipeline):
        from questlog.cli.spooled import show_spool

        show_spool(pipeline, as_json)
        return
    end = pipeline.log.end()
    ledger = read_ledger(pipeline.project.catalog, end)
    tables = _tables(pipeline, ledger)
    totals = {name: ledger.total(name) for name in ("landed", "quarantined", "duplicate", "damaged")}
    totals = {"accepted": ledger.accepted, **totals, "tail": ledger.waiting}
    if ledger.half_landed:
        totals["tail"] = ledger.accepted - sum(n for name, n in totals.items() if name not in ("accepted", "tail"))
    balanced = totals["accepted"] == sum(n for name, n in totals.items() if name != "accepted")
    report = {
        "project": str(pipeline.project.root),
        "plan_version": pipeline.plan.version,
        "balanced": balanced,
        "ledger": totals,
        "tables": [_row(name, table) for name, table in tables.items()],
        "quarantine": dict(sorted(tables[QUARANTINE].reasons.items())),
        "lander": _lander(pipeline),
        "promoted": _promoted(pipeline, end),
    }
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    if not balanced:
        raise SystemExit(1)


def _tables(pipeline: Pipeline, ledger: Ledger) -> dict[str, _Table]:
    """Return each table's counts; events of no known type are counted with quarantine."""
    state, tail = pipeline.engine.holdings()
    plan = pipeline.plan
    found = {name: _Table() for name in [*sorted({*plan.tables, *ledger.tables} - {QUARANTINE}), QUARANTINE]}
    homes = {name: event.table for name, event in plan.events.items()}
    for row in ledger.rows:
        if row.outcome == "quarantined":
            found[homes.get(row.event_type, QUARANTINE)].quarantined += row.records
            found[QUARANTINE].reasons[row.reason] += row.records
        elif row.outcome == "duplicate":
            found[row.table if row.table in found else QUARANTINE].duplicate += row.records
    for name, landed in state.tables.items():
        table = found.setdefault(name, _Table())
        table.files, table.bytes = len(landed.files), landed.bytes
        table.landed = landed.rows
    for name, rows in tail.items():
        found[name].lag_ms = _age_ms(rows)
        found[name].tail = rows.num_rows
    return found


def _age_ms(rows: pa.Table) -> int:
    """Return the age of the oldest row."""
    import pyarrow.compute as pc

    oldest: int = pc.min(rows["received_time"]).cast("int64").as_py() // 1000
    return max(0, time.time_ns() // 1_000_000 - oldest)


def _row(name: str, table: _Table) -> dict[str, Any]:
    here = table.landed + table.tail if name != QUARANTINE else 0
    return {
        "table": name,
        "accepted": here + table.quarantined + table.duplicate,
        "landed": table.landed,
        "tail": table.tail,
        "quarantined": table.quarantined,
        "duplicate": table.duplicate,
        "files": table.files,
        "bytes": table.bytes,
        "lag_seconds": table.lag_ms / 1000,
    }


def _lander(pipeline: Pipeline) -> dict[str, Any] | None:
    holder = last_holder(pipeline.project.catalog)
    if holder is None or not holder.alive:
        return None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(holder.since_ms / 1000))
    return {"pid": holder.pid, "command": holder.command, "since": since}


def _promoted(pipeline: Pipeline, end: Position) -> dict[str, Any] | None:
    """Return where the project was promoted to, if it was, and how many records have come since."""
    handover = read_handover(pipeline.project.data)
    if handover is None:
        return None
    sent = needed(pipeline.project.data)
    behind = None if sent is None else sum(offset - sent.get(partition, 0) for partition, offset in end.items())
    return {"target": handover.target, "copied": handover.state == "sealed", "records_since": behind}


def _text(report: dict[str, Any]) -> str:
    rows = []
    for table in report["tables"]:
        counts = [f"{table[name]:,}" for name in _COLUMNS[1:-2]]
        rows.append([table["table"], *counts, human_bytes(table["bytes"]), f"{table['lag_seconds']:.1f} s"])
    lines = [table_text(_COLUMNS, rows, [False] + [True] * (len(_COLUMNS) - 1))]
    parts = " + ".join(f"{name} {n:,}" for name, n in report["ledger"].items() if name != "accepted")
    says = "balances" if report["balanced"] else "DOES NOT BALANCE"
    lines.append(f"{says}: accepted {report['ledger']['accepted']:,} = {parts}")
    if report["quarantine"]:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in report["quarantine"].items())
        lines.append(
            f"in quarantine: {reasons}; questlog sql 'select reason, field, detail, raw_event from quarantine'"
        )
    lander = report["lander"]
    if lander is None:
        lines.append("no lander runs: events wait in the log, and queries see them; questlog up lands them")
    else:
        lines.append(f"process {lander['pid']} ({lander['command']}) lands since {lander['since']}")
    promoted = report["promoted"]
    if promoted is not None and promoted["copied"]:
        lines.append(
            f"promoted to {promoted['target']}: {promoted['records_since']:,} records have come since, and the log"
            " keeps them; questlog promote takes them along"
        )
    elif promoted is not None:
        lines.append(f"the promotion to {promoted['target']} is not finished; questlog promote goes on with it")
    return "\n".join(lines)
