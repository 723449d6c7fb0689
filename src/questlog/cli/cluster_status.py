"""How `questlog status` prints the report of the cluster profile."""

from __future__ import annotations

from typing import Any

from questlog.cli.rows import table_text
from questlog.report import Blocked, ClusterReport, ClusterTable, LakeCounts, human_bytes

QUIET_SECONDS = 60.0
_COLUMNS = ("table", "landed", "quarantined", "files", "bytes", "waiting", "lag", "last commit")


def document(report: ClusterReport) -> dict[str, Any]:
    """Return the report as `--json` prints it: scripts read these keys."""
    spool, blocked = report.spool, report.forwarder_blocked
    return {
        "project": str(report.project),
        "profile": report.profile,
        "plan_version": report.plan_version,
        "spool": {
            "name": spool.name,
            "accepted": spool.accepted,
            "forwarded": spool.forwarded,
            "waiting": spool.waiting,
            "landed": spool.landed,
        },
        "topic": {"name": report.topic_name, **_topic(report)},
        "forwarder": "runs" if report.forwarding else "stopped",
        "trouble": blocked and {"text": blocked.text, "hint": blocked.hint, "seconds": blocked.seconds},
        "lake": {"schema": report.schema, **_lake(report)},
        **_tables(report),
    }


def _topic(report: ClusterReport) -> dict[str, Any]:
    topic = report.topic
    if isinstance(topic, Blocked):
        return {"trouble": topic.text, "hint": topic.hint}
    return {
        "records": topic.records,
        "waiting": topic.waiting,
        "lag_seconds": topic.lag_seconds,
        "ends": {str(partition): end for partition, end in topic.ends.items()},
    }


def _lake(report: ClusterReport) -> dict[str, Any]:
    lake = report.lake
    if isinstance(lake, Blocked):
        return {"trouble": lake.text, "hint": lake.hint}
    return {} if lake.lander is None else {"lander": lake.lander, "committed_seconds": lake.committed_seconds}


def _tables(report: ClusterReport) -> dict[str, Any]:
    lake = report.lake
    if isinstance(lake, Blocked):
        return {"tables": [], "ledger": {}, "half_landed": None, "balanced": None, "quarantine": {}}
    return {
        "tables": [_row(table) for table in lake.tables],
        "ledger": dict(lake.ledger),
        "half_landed": lake.half_landed,
        "balanced": lake.balanced,
        "quarantine": dict(lake.quarantine),
        "quarantined_types": dict(lake.quarantined_types),
    }


def _row(table: ClusterTable) -> dict[str, Any]:
    position = table.position
    return {
        "table": table.table,
        "landed": table.landed,
        "quarantined": table.quarantined,
        "files": table.files,
        "bytes": table.bytes,
        "position": None if position is None else {str(p): offset for p, offset in position.items()},
        "waiting": table.waiting,
        "lag_seconds": table.lag_seconds,
        "committed_seconds": table.committed_seconds,
    }


def text(report: ClusterReport) -> str:
    """Return the report for people."""
    spool, topic, blocked = report.spool, report.topic, report.forwarder_blocked
    lines = [
        f"spool {spool.name or '(nothing forwarded yet)'}: accepted {spool.accepted:,} = "
        f"forwarded {spool.forwarded:,} + waiting {spool.waiting:,}; landed {spool.landed:,}"
    ]
    if isinstance(topic, Blocked):
        lines.append(f"topic {report.topic_name}: {topic.text}\n  try: {topic.hint}")
    else:
        oldest = f", the oldest for {topic.lag_seconds:.1f} s" if topic.waiting else ""
        lines.append(
            f"topic {report.topic_name}: {topic.records:,} records, {topic.waiting:,} waiting to be landed{oldest}"
        )
    if blocked is not None:
        lines.append(f"the forwarder has been waiting for {blocked.seconds} s: {blocked.text}\n  try: {blocked.hint}")
    elif not report.forwarding:
        lines.append("no forwarder is running: events wait on this machine; questlog up forwards them")
    if isinstance(report.lake, Blocked):
        lines.append(f"tables of {report.schema}: {report.lake.text}\n  try: {report.lake.hint}")
    elif not report.lake.tables:
        lines.append(f"tables of {report.schema}: none yet; questlog up lands the events that are waiting")
    else:
        lines += _tables_text(report.lake, waiting=0 if isinstance(topic, Blocked) else topic.waiting)
    return "\n".join(lines)


def _tables_text(lake: LakeCounts, waiting: int) -> list[str]:
    rows: list[list[str | None]] = [
        [t.table, f"{t.landed:,}", f"{t.quarantined:,}", f"{t.files:,}", human_bytes(t.bytes),
         "" if t.waiting is None else f"{t.waiting:,}", _duration(t.lag_seconds),
         f"{_duration(t.committed_seconds)} ago" if t.committed_seconds is not None else ""]
        for t in lake.tables
    ]  # fmt: skip
    lines = [table_text(_COLUMNS, rows, [False] + [True] * (len(_COLUMNS) - 1)).rstrip()]
    ledger = lake.ledger
    verdict = "DOES NOT BALANCE" if not lake.balanced else "is being landed" if lake.half_landed else "balances"
    parts = " + ".join(f"{name} {ledger[name]:,}" for name in ("landed", "quarantined", "duplicate"))
    more = [f"{name} {ledger[name]:,}" for name in ("resent", "lost", "added") if ledger[name]]
    lines.append(f"{verdict}: read {ledger['read']:,} = {parts}" + (f"; also: {', '.join(more)}" if more else ""))
    if lake.quarantine:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in lake.quarantine.items())
        lines.append(f"in quarantine: {reasons}; questlog sql 'select reason, field, raw_event from quarantine'")
    committed = lake.committed_seconds or 0.0
    lines.append(f"lander number {lake.lander or 0} on these tables last committed {_duration(committed)} ago")
    if waiting and committed > QUIET_SECONDS:
        lines[-1] += "; no lander is at work: questlog up starts one, and its messages report what blocks it"
    return lines


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
