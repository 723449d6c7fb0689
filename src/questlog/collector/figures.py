"""The project's own figures for `/metrics`, from what `questlog status --json` says on either profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from questlog.collector.metrics import Gauge

Report = Mapping[str, Any]


def gauges(report: Report) -> list[Gauge]:
    """Return what *report* says as gauges; none if there is no report."""
    if not report:
        return []
    found = _of_cluster(report) if report.get("profile") == "cluster" else []
    tables = report["tables"]
    for name, meaning, key in (
        ("questlog_tail_events", "Events in the log that are not landed yet.", "tail"),
        ("questlog_lag_seconds", "Age of the oldest event that is not landed.", "lag_seconds"),
        ("questlog_landed_events", "Rows in the table's files.", "landed"),
    ):
        values = [({"table": each["table"]}, float(each[key])) for each in tables if each.get(key) is not None]
        if values:
            found.append((name, meaning, values))
    if report["balanced"] is not None:
        balanced = float(report["balanced"])
        found.append(("questlog_ledger_balanced", "1 if every accepted event is somewhere, once.", [({}, balanced)]))
    return found


def _of_cluster(report: Report) -> list[Gauge]:
    parts = {"forwarder": report["trouble"], **{p: report[p].get("trouble") for p in ("topic", "lake")}}
    found: list[Gauge] = [
        (
            "questlog_in_the_way",
            "1 while the forwarder waits, or Kafka or the query engine cannot be asked.",
            [({"part": part}, float(trouble is not None)) for part, trouble in parts.items()],
        ),
        _one("questlog_spool_waiting_events", "Events not forwarded to Kafka yet.", report["spool"]["waiting"]),
    ]
    if "waiting" in report["topic"]:
        waiting, lag = report["topic"]["waiting"], report["topic"]["lag_seconds"]
        found.append(_one("questlog_topic_waiting_events", "Records of the topic that are not landed yet.", waiting))
        found.append(_one("questlog_topic_lag_seconds", "Age of the oldest of them.", lag))
    if "committed_seconds" in report["lake"]:
        age = report["lake"]["committed_seconds"]
        found.append(_one("questlog_commit_age_seconds", "Since the lander last committed.", age))
    reasons = [({"reason": reason}, float(rows)) for reason, rows in report["quarantine"].items()]
    if reasons:
        found.append(("questlog_quarantined_events", "Rows of quarantine by reason.", reasons))
    return found


def _one(name: str, meaning: str, value: float) -> Gauge:
    return name, meaning, [({}, float(value))]
