"""What a collector counts, for Prometheus: in memory that its workers share, a row for each, so that nobody locks."""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from itertools import accumulate, product
from typing import Any

from questlog.accept import OUTCOMES, TOO_LARGE, Receipt
from questlog.errors import Reason

OTHER = "other"
"""What stands for a path that nobody serves, however it is called."""
REFUSED = "refused"
"""The path of requests that no handler saw."""
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_EVENTS = list(product(OUTCOMES, ["", *Reason, TOO_LARGE, OTHER]))
_HISTOGRAM = len(_SECONDS) + 2
"""Places of a histogram: each bucket's own count, that of what is longer, and the sum."""
Gauge = tuple[str, str, Sequence[tuple[Mapping[str, str], float]]]
"""Name, meaning, and values by label: figures of the whole project, asked for when somebody looks."""


class Counts:
    """The counts of all workers. Made before they are forked; a worker that starts again goes on with its row."""

    def __init__(self, paths: Iterable[str], workers: int = 1) -> None:
        self.requests = list(product([*paths, OTHER, REFUSED], map(int, HTTPStatus)))
        self.latency = len(_EVENTS) + len(self.requests)
        self.append = self.latency + _HISTOGRAM
        self._width, self._workers = self.append + _HISTOGRAM, workers
        self._memory = memoryview(mmap.mmap(-1, 8 * self._width * workers)).cast("d")

    def row(self, worker: int) -> memoryview[float]:
        """Return what one worker counts."""
        return self._memory[worker * self._width : (worker + 1) * self._width]

    def total(self) -> list[float]:
        """Return the sums over all workers."""
        return [sum(each) for each in zip(*map(self.row, range(self._workers)), strict=True)]


class Metrics:
    """Counts for one worker, in its loop's thread."""

    def __init__(self, counts: Counts, worker: int = 0) -> None:
        self.counts, self._row = counts, counts.row(worker)
        self._events = {key: place for place, key in enumerate(_EVENTS)}
        self._requests = {key: place for place, key in enumerate(counts.requests, len(_EVENTS))}
        self._latency, self._append = counts.latency, counts.append

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        place = self._requests.get((path, status))
        self._row[self._requests[OTHER, status] if place is None else place] += 1
        self._observe(self._latency, seconds)

    def received(self, receipts: Iterable[Receipt]) -> None:
        """Count events that were answered."""
        row, events = self._row, self._events
        for each in receipts:
            place = events.get((each.outcome, each.reason))
            row[events[each.outcome, OTHER] if place is None else place] += 1

    def appended(self, seconds: float) -> None:
        """Count a group commit."""
        self._observe(self._append, seconds)

    def _observe(self, histogram: int, seconds: float) -> None:
        self._row[histogram + bisect_left(_SECONDS, seconds)] += 1
        self._row[histogram + _HISTOGRAM - 1] += seconds


def exposition(counts: Counts, gauges: Iterable[Gauge]) -> tuple[bytes, bytes]:
    """Return the content type and text of what all workers counted, and the project's figures."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    class Families:
        def collect(self) -> Iterator[Any]:
            yield from _families(counts, gauges)

    registry = CollectorRegistry()
    registry.register(Families())
    return CONTENT_TYPE_LATEST.encode(), generate_latest(registry)


def _families(counts: Counts, gauges: Iterable[Gauge]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    total = counts.total()
    events = CounterMetricFamily("questlog_events", "Events by outcome and reason.", labels=["outcome", "reason"])
    for labels, value in zip(_EVENTS, total, strict=False):
        if value:
            events.add_metric(labels, value)
    yield events
    requests = CounterMetricFamily("questlog_requests", "Requests by path and status.", labels=["path", "status"])
    for (path, status), value in zip(counts.requests, total[len(_EVENTS) :], strict=False):
        if value:
            requests.add_metric([path, str(status)], value)
    yield requests
    for name, meaning, place in (
        ("questlog_request_seconds", "From a whole request to its answer.", counts.latency),
        ("questlog_append_seconds", "A group commit: write and fsync.", counts.append),
    ):
        *own, seconds = total[place : place + _HISTOGRAM]
        bounds = [*map(str, map(float, _SECONDS)), "+Inf"]
        histogram = HistogramMetricFamily(name, meaning)
        histogram.add_metric([], list(zip(bounds, accumulate(own), strict=True)), seconds)
        yield histogram
    for name, meaning, values in gauges:
        gauge = GaugeMetricFamily(name, meaning, labels=list(values[0][0]) if values else [])
        for by, value in values:
            gauge.add_metric(list(by.values()), value)
        yield gauge
