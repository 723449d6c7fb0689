"""The project's figures for `/metrics`, derived from its report in a child process.

A report shapes the whole tail and holds the interpreter lock while it does. With 300,000 events waiting, a report in a
thread raised an append's p99 from 0.4 to 7 ms and left the worker 200 MB larger. With a child process the p99 was
0.5 to 3 ms; the child costs 1 s of processor time and returns its memory to the system.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from questlog.collector.metrics import Gauge
from questlog.pipeline import open_pipeline
from questlog.report import ClusterReport, EmbeddedReport, LakeCounts, Report, TopicCounts

KEEP_SECONDS = 2.0
CLUSTER_KEEP_SECONDS = 10.0
"""How long figures are kept. On the cluster profile each machine's report queries Kafka and Presto."""
REPORT_SECONDS = 60.0
"""How long a report may take before it is abandoned."""
logger = logging.getLogger("questlog.collector")


@dataclass(frozen=True, slots=True)
class Figures:
    """The gauges of one report, and how long they may be served."""

    gauges: Sequence[Gauge] = ()
    keep_seconds: float = KEEP_SECONDS
    usable_when_late: bool = False
    """Whether old figures are served while new ones are late. A cluster's report asks remote servers and takes time."""


async def read_figures(root: Path) -> Figures:
    """Return the project's figures; none if the report fails or takes more than `REPORT_SECONDS`."""
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
        logger.error("stage=collect path=/metrics the report failed: %s", reason)
        return Figures()
    return msgspec.json.decode(out, type=Figures)


def figures(report: Report) -> Figures:
    """Return a report as gauges."""
    if isinstance(report, ClusterReport):
        return Figures(_of_cluster(report), CLUSTER_KEEP_SECONDS, usable_when_late=True)
    return Figures(_of_embedded(report))


def _of_embedded(report: EmbeddedReport) -> list[Gauge]:
    tables = report.tables
    return [
        _by("table", "questlog_tail_events", {each.table: each.tail for each in tables}),
        _by("table", "questlog_landing_lag_seconds", {each.table: each.lag_ms / 1000 for each in tables}),
        _by("table", "questlog_landed_events", {each.table: each.landed for each in tables}),
        _one("questlog_ledger_balanced", report.balanced),
    ]


def _of_cluster(report: ClusterReport) -> list[Gauge]:
    blocked = {name: reason is not None for name, reason in report.blocked.items()}
    gauges = [
        _by("component", "questlog_component_blocked", blocked),
        _one("questlog_spool_waiting_events", report.spool.waiting),
    ]
    if isinstance(report.topic, TopicCounts):
        gauges.append(_one("questlog_topic_waiting_events", report.topic.waiting))
        gauges.append(_one("questlog_topic_lag_seconds", report.topic.lag_seconds))
    if isinstance(report.lake, LakeCounts):
        gauges += _of_lake(report.lake)
    return gauges


def _of_lake(lake: LakeCounts) -> list[Gauge]:
    gauges: list[Gauge] = []
    if lake.committed_seconds is not None:
        gauges.append(_one("questlog_commit_age_seconds", lake.committed_seconds))
    if lake.quarantine:
        gauges.append(_by("reason", "questlog_quarantined_events", lake.quarantine))
    lags = {each.table: each.lag_seconds for each in lake.tables if each.lag_seconds is not None}
    if lags:
        gauges.append(_by("table", "questlog_landing_lag_seconds", lags))
    if lake.tables:
        gauges.append(_by("table", "questlog_landed_events", {each.table: each.landed for each in lake.tables}))
    return [*gauges, _one("questlog_ledger_balanced", lake.balanced)]


def _by(label: str, name: str, values: Mapping[str, float]) -> Gauge:
    return name, [({label: key}, float(value)) for key, value in values.items()]


def _one(name: str, value: float) -> Gauge:
    return name, [({}, float(value))]


if __name__ == "__main__":
    with open_pipeline(sys.argv[1]) as pipeline:
        sys.stdout.buffer.write(msgspec.json.encode(figures(pipeline.report())))
