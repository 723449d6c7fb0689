"""`questlog status`: where each table's events are, and the ledger that must balance."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from questlog.cli import cluster_status
from questlog.cli.rows import table_text
from questlog.pipeline import open_pipeline
from questlog.report import EmbeddedReport, PromotionState, Report, TableCounts, human_bytes

_COLUMNS = ("table", "accepted", "landed", "tail", "quarantined", "duplicate", "files", "bytes", "lag")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(folder: Path, as_json: bool) -> None:
    """Show where each table's events are, and the ledger: every accepted event is in exactly one place.

    On the cluster profile: this machine's spool and forwarder, the topic, and the tables as Presto reports them.

    Exits with 1 if the ledger does not balance or, on the cluster profile, if a component is blocked.
    """
    with open_pipeline(folder) as pipeline:
        report = pipeline.report()
    click.echo(json.dumps(document(report), indent=2) if as_json else text(report))
    if not report.healthy:
        raise SystemExit(1)


def document(report: Report) -> dict[str, Any]:
    """Return the report as `--json` prints it: scripts read these keys."""
    return _document(report) if isinstance(report, EmbeddedReport) else cluster_status.document(report)


def text(report: Report) -> str:
    """Return the report for people."""
    return _text(report) if isinstance(report, EmbeddedReport) else cluster_status.text(report)


def _document(report: EmbeddedReport) -> dict[str, Any]:
    lander, promoted = report.lander, report.promoted
    return {
        "project": str(report.project),
        "plan_version": report.plan_version,
        "balanced": report.balanced,
        "ledger": dict(report.ledger),
        "tables": [_row(table) for table in report.tables],
        "quarantine": dict(report.quarantine),
        "lander": lander and {"pid": lander.pid, "command": lander.command, "since": _utc(lander.since_ms)},
        "promoted": promoted
        and {"target": promoted.target, "copied": promoted.copied, "records_since": promoted.records_since},
    }


def _row(table: TableCounts) -> dict[str, Any]:
    return {
        "table": table.table,
        "accepted": table.accepted,
        "landed": table.landed,
        "tail": table.tail,
        "quarantined": table.quarantined,
        "duplicate": table.duplicate,
        "files": table.files,
        "bytes": table.bytes,
        "lag_seconds": table.lag_ms / 1000,
    }


def _utc(time_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_ms / 1000))


def _text(report: EmbeddedReport) -> str:
    rows = []
    for t in report.tables:
        counts = (t.accepted, t.landed, t.tail, t.quarantined, t.duplicate, t.files)
        rows.append([t.table, *(f"{n:,}" for n in counts), human_bytes(t.bytes), f"{t.lag_ms / 1000:.1f} s"])
    lines = [table_text(_COLUMNS, rows, [False] + [True] * (len(_COLUMNS) - 1))]
    parts = " + ".join(f"{name} {n:,}" for name, n in report.ledger.items() if name != "accepted")
    verdict = "balances" if report.balanced else "DOES NOT BALANCE"
    lines.append(f"{verdict}: accepted {report.ledger['accepted']:,} = {parts}")
    if report.quarantine:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in report.quarantine.items())
        lines.append(
            f"in quarantine: {reasons}; questlog sql 'select reason, field, detail, raw_event from quarantine'"
        )
    lander = report.lander
    if lander is None:
        lines.append("no lander is running: events wait in the log, where queries read them; questlog up lands them")
    else:
        lines.append(f"process {lander.pid} ({lander.command}) has been landing since {_utc(lander.since_ms)}")
    if report.promoted is not None:
        lines.append(_promotion(report.promoted))
    return "\n".join(lines)


def _promotion(promoted: PromotionState) -> str:
    if not promoted.copied:
        return f"the promotion to {promoted.target} is unfinished; questlog promote resumes it"
    return (
        f"promoted to {promoted.target}: {promoted.records_since:,} records have been logged since, and the log"
        " keeps them; questlog promote takes them along"
    )
