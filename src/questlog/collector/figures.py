"""The project's own figures for `/metrics`, made from its report in a process of their own.

A report shapes the whole tail and holds the interpreter meanwhile. With 300,000 events waiting, a report in a
thread raised an append's p99 from 0.4 to 7 ms and left 200 MB in the worker. A child process left the appends alone
(p99 0.5 to 3 ms); it costs 1 s of processor time, and its memory goes back to the system.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from questlog.collector.metrics import Gauge
from questlog.pipeline import open_pipeline
from questlog.report import ClusterReport, EmbeddedReport, LakeCounts, Report, TopicCounts

KEEP_SECONDS = 2.0
CLUSTER_KEEP_SECONDS = 10.0
"""How long figures are kept: on the cluster profile every report asks Kafka and Presto, from each machine."""
REPORT_SECONDS = 60.0
"""After this long a report is given up."""
logger = logging.getLogger("questlog.collector")


@dataclass(frozen=True, slots=True)
class Figures:
    """The gauges of one report, for how long they are kept, and whether the next ones may replace them later."""

    gauges: Sequence[Gauge] = ()
    keep_seconds: float = KEEP_SECONDS
    usable_when_late: bool = False
    """Figures that servers elsewhere gave take their time: half a minute old is better than none."""


async def read_figures(root: Path) -> Figures:
    """Return the project's figures; empty if the report fails or takes more than `REPORT_SECONDS`."""
    command = [sys.executable, "-m", __name__, str(root)]
    process = await asyncio.create_subprocess_exec(*command, stdin=-3, stdout=-1, stderr=-1)
    try:
        out, errors = await asyncio.wait_for(process.communicate(), REPORT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        return Figures()
    if process.returncode:
        *_, reason = errors.decode(errors="replace").strip().splitlines() or [""]
        logger.error("stage=collect path=/metrics no report: %s", reason)
        return Figures()
    return msgspec.json.decode(out, type=Figures)


def figures(report: Report) -> Figures:
    """Return what *report* holds as gauges."""
    if isinstance(report, ClusterReport):
        return Figures(_of_cluster(report), CLUSTER_KEEP_SECONDS, usable_when_late=True)
    return Figures(_of_embedded(report))


_TAIL = ("questlog_tail_events", "Events in the log that have not landed yet, by table.")
_LAG = ("questlog_lag_seconds", "Age of the oldest event that has not landed yet, by table.")
_LANDED = ("questlog_landed_events", "Rows in the table's files.")
_BALANCED = ("questlog_ledger_balanced", "1 if every accepted event is in exactly one place, else 0.")


def _of_embedded(report: EmbeddedReport) -> list[Gauge]:
    tables = report.tables
    return [
        _by_table(_TAIL, {t.table: t.tail for t in tables}),
        _by_table(_LAG, {t.table: t.lag_ms / 1000 for t in tables}),
        _by_table(_LANDED, {t.table: t.landed for t in tables}),
        _one(*_BALANCED, report.balanced),
    ]


def _of_cluster(report: ClusterReport) -> list[Gauge]:
    blocked = [({"component": name}, float(reason is not None)) for name, reason in report.blocked.items()]
    gauges: list[Gauge] = [
        ("questlog_component_blocked", "1 while the component makes no progress or does not answer, else 0.", blocked),
        _one("questlog_spool_waiting_events", "Events not forwarded to Kafka yet.", report.spool.waiting),
    ]
    if isinstance(report.topic, TopicCounts):
        waiting, lag = report.topic.waiting, report.topic.lag_seconds
        gauges.append(_one("questlog_topic_waiting_events", "Records in the topic that have not landed yet.", waiting))
        gauges.append(_one("questlog_topic_lag_seconds", "Age of the oldest record that has not landed yet.", lag))
    if isinstance(report.lake, LakeCounts):
        gauges += _of_lake(report.lake)
    return gauges


def _of_lake(lake: LakeCounts) -> list[Gauge]:
    gauges: list[Gauge] = []
    if lake.committed_seconds is not None:
        gauges.append(
            _one("questlog_commit_age_seconds", "Time since the lander's last commit.", lake.committed_seconds)
        )
    if lake.quarantine:
        reasons = [({"reason": reason}, float(rows)) for reason, rows in lake.quarantine.items()]
        gauges.append(("questlog_quarantined_events", "Rows of the quarantine table, by reason.", reasons))
    lags = {t.table: t.lag_seconds for t in lake.tables if t.lag_seconds is not None}
    if lags:
        gauges.append(_by_table(_LAG, lags))
    if lake.tables:
        gauges.append(_by_table(_LANDED, {t.table: t.landed for t in lake.tables}))
    return [*gauges, _one(*_BALANCED, lake.balanced)]


def _by_table(named: tuple[str, str], values: dict[str, float]) -> Gauge:
    return *named, [({"table": table}, float(value)) for table, value in values.items()]


def _one(name: str, meaning: str, value: float) -> Gauge:
    return name, meaning, [({}, float(value))]


if __name__ == "__main__":
    with open_pipeline(sys.argv[1]) as pipeline:
        sys.stdout.buffer.write(msgspec.json.encode(figures(pipeline.report())))
