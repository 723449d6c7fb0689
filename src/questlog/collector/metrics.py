"""Metrics for Prometheus: the list of them all, and what workers count in shared memory, one row each, unlocked."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate, product
from typing import TYPE_CHECKING, Literal

from questlog.accept import OUTCOMES, TOO_LARGE, Receipt
from questlog.errors import Reason

if TYPE_CHECKING:
    from prometheus_client import Metric as Family


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name, type, meaning and labels. Names and labels are a contract: dashboards rely on them."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("questlog_events_total", "counter", "Events received, by outcome and reason.", ("outcome", "reason")),
    Metric("questlog_requests_total", "counter", "Requests answered, by path and status.", ("path", "status")),
    Metric("questlog_request_duration_seconds", "histogram", "Time from a complete request to its response."),
    Metric("questlog_append_duration_seconds", "histogram", "Time of a group commit: write and fsync."),
    Metric("questlog_log_bytes", "gauge", "Disk space that the log takes."),
    Metric("questlog_tail_events", "gauge", "Events in the log not yet landed, by table.", ("table",)),
    Metric("questlog_landing_lag_seconds", "gauge", "Age of the oldest event not yet landed, by table.", ("table",)),
    Metric("questlog_landed_events", "gauge", "Rows in the table's files, by table.", ("table",)),
    Metric("questlog_ledger_balanced", "gauge", "1 if every accepted event is in exactly one place, else 0."),
    Metric(
        "questlog_component_blocked",
        "gauge",
        "1 while the component makes no progress or does not answer, else 0.",
        ("component",),
    ),
    Metric("questlog_spool_waiting_events", "gauge", "Events in the spool not yet forwarded to Kafka."),
    Metric("questlog_topic_waiting_events", "gauge", "Records in the topic not yet landed."),
    Metric("questlog_topic_lag_seconds", "gauge", "Age of the oldest record in the topic not yet landed."),
    Metric("questlog_commit_age_seconds", "gauge", "Time since the lander's last commit."),
    Metric("questlog_quarantined_events", "gauge", "Rows of the quarantine table, by reason.", ("reason",)),
)
_BY_NAME = {metric.name: metric for metric in METRICS}
Gauge = tuple[str, Sequence[tuple[Mapping[str, str], float]]]
"""The name of a gauge in `METRICS`, and its values by label."""

OTHER = "other"
"""The label of every path that is not served."""
REFUSED = "refused"
"""The path of requests that were refused before any handler saw them."""
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS = list(product(OUTCOMES, ["", *Reason, TOO_LARGE, OTHER]))
_HISTOGRAM = len(_SECONDS) + 2
"""Cells of a histogram: one per bucket, one for longer times, and the sum."""


class Counts:
    """The counts of all workers. Made before they are forked; a worker that is restarted continues its row."""

    def __init__(self, paths: Iterable[str], workers: int = 1) -> None:
        self.requests = list(product([*paths, OTHER, REFUSED], map(int, HTTPStatus)))
        self.latency = len(_EVENTS) + len(self.requests)
        self.append = self.latency + _HISTOGRAM
        self._width, self._workers = self.append + _HISTOGRAM, workers
        self._memory = memoryview(mmap.mmap(-1, 8 * self._width * workers)).cast("d")

    def row(self, worker: int) -> memoryview[float]:
        """Return one worker's counts."""
        return self._memory[worker * self._width : (worker + 1) * self._width]

    def total(self) -> list[float]:
        """Return the sums over all workers."""
        return [sum(each) for each in zip(*map(self.row, range(self._workers)), strict=True)]


class Metrics:
    """Counts for one worker, in its event loop's thread."""

    def __init__(self, counts: Counts, worker: int = 0) -> None:
        self.counts, self._row = counts, counts.row(worker)
        self._events = {key: cell for cell, key in enumerate(_EVENTS)}
        self._requests = {key: cell for cell, key in enumerate(counts.requests, len(_EVENTS))}
        self._latency, self._append = counts.latency, counts.append

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        cell = self._requests.get((path, status))
        self._row[self._requests[OTHER, status] if cell is None else cell] += 1
        self._observe(self._latency, seconds)

    def received(self, receipts: Iterable[Receipt]) -> None:
        """Count events by their receipts."""
        row, events = self._row, self._events
        for each in receipts:
            cell = events.get((each.outcome, each.reason))
            row[events[each.outcome, OTHER] if cell is None else cell] += 1

    def appended(self, seconds: float) -> None:
        """Count a group commit."""
        self._observe(self._append, seconds)

    def _observe(self, histogram: int, seconds: float) -> None:
        self._row[histogram + bisect_left(_SECONDS, seconds)] += 1
        self._row[histogram + _HISTOGRAM - 1] += seconds


def exposition(counts: Counts, gauges: Iterable[Gauge]) -> tuple[bytes, bytes]:
    """Return the content type and the text of the counts of all workers and the project's gauges."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    class Families:
        def collect(self) -> Iterator[Family]:
            yield from _counted(counts)
            yield from map(_gauge, gauges)

    registry = CollectorRegistry()
    registry.register(Families())
    return CONTENT_TYPE_LATEST.encode(), generate_latest(registry)


def _counted(counts: Counts) -> Iterator[Family]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    total = counts.total()
    for metric, keys, first in (
        (_BY_NAME["questlog_events_total"], _EVENTS, 0),
        (_BY_NAME["questlog_requests_total"], counts.requests, len(_EVENTS)),
    ):
        counter = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for key, value in zip(keys, total[first:], strict=False):
            if value:
                counter.add_metric([str(label) for label in key], value)
        yield counter
    for metric, first in (
        (_BY_NAME["questlog_request_duration_seconds"], counts.latency),
        (_BY_NAME["questlog_append_duration_seconds"], counts.append),
    ):
        *buckets, seconds = total[first : first + _HISTOGRAM]
        bounds = [*map(str, map(float, _SECONDS)), "+Inf"]
        histogram = HistogramMetricFamily(metric.name, metric.meaning)
        histogram.add_metric([], list(zip(bounds, accumulate(buckets), strict=True)), seconds)
        yield histogram


def _gauge(gauge: Gauge) -> Family:
    from prometheus_client.core import GaugeMetricFamily

    name, values = gauge
    metric = _BY_NAME[name]
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values:
        family.add_metric([labels[label] for label in metric.labels], value)
    return family
