"""Names that others rely on: metrics, their labels, and the codes of refusals change only on purpose."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import questlog.collector
from questlog.collector.metrics import METRICS, Counts, Metric, Metrics, exposition
from questlog.collector.openapi import ERRORS, STATUSES

SOURCES = sorted(Path(questlog.collector.__file__).parent.rglob("*.py"))
NAMES = {
    "questlog_append_duration_seconds", "questlog_commit_age_seconds", "questlog_component_blocked",
    "questlog_events_total", "questlog_landed_events", "questlog_landing_lag_seconds", "questlog_ledger_balanced",
    "questlog_log_bytes", "questlog_quarantined_events", "questlog_request_duration_seconds",
    "questlog_requests_total", "questlog_spool_waiting_events", "questlog_tail_events", "questlog_topic_lag_seconds",
    "questlog_topic_waiting_events",
}  # fmt: skip


def refusals() -> Iterator[tuple[int, str]]:
    """Return the status and code of every call of `refuse` in the collector."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "refuse":
                status, code = (each.value for each in node.args[:2] if isinstance(each, ast.Constant))
                assert isinstance(status, int) and isinstance(code, str)
                yield status, code


def test_the_metrics_keep_their_names() -> None:
    assert {metric.name for metric in METRICS} == NAMES


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: str(metric.name))
def test_a_metric_is_named_and_described(metric: Metric) -> None:
    assert metric.name.startswith("questlog_") and metric.meaning.endswith(".")
    assert metric.name.endswith("_total") is (metric.kind == "counter")
    assert metric.kind != "histogram" or metric.name.endswith("_seconds")


def test_every_gauge_is_exposed_under_its_meaning() -> None:
    gauges = [(metric.name, [(dict.fromkeys(metric.labels, "a"), 1.0)]) for metric in METRICS if metric.kind == "gauge"]
    counts = Counts(["/v1/events"])
    Metrics(counts).answered("/v1/events", 200, 0.001)
    families = list(text_string_to_metric_families(exposition(counts, gauges)[1].decode()))
    assert {family.name for family in families} == {name.removesuffix("_total") for name in NAMES}
    meanings = {metric.name.removesuffix("_total"): metric.meaning for metric in METRICS}
    assert {family.name: family.documentation for family in families} == meanings


def test_every_refusal_has_a_documented_status_and_code() -> None:
    made = set(refusals())
    assert {code for _, code in made} == set(ERRORS)
    assert {status for status, _ in made} == set(STATUSES)
