"""What a collector counts, for Prometheus. Several workers count into files that one answer adds up."""

from __future__ import annotations

import os
import tempfile
from collections import Counter as Counts
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from questlog.collect import Receipt

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
Gauge = tuple[str, str, Sequence[tuple[Mapping[str, str], float]]]
"""Name, meaning, and values by label: figures of the whole project, asked for when somebody looks."""


def share_counts() -> tempfile.TemporaryDirectory[str]:
    """Make the place where workers count; to be called before they start, and kept until they have ended."""
    folder = tempfile.TemporaryDirectory(prefix="questlog-metrics-")
    os.environ[_DIRECTORY] = folder.name
    return folder


class Metrics:
    """The counts of one worker. To be made in the worker: its file has the worker's process number."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram  # reads the environment when imported

        own = CollectorRegistry()  # what is shared is read from the files, not from here
        self._events = Counter("questlog_events", "Events by outcome and reason.", ["outcome", "reason"], registry=own)
        self._requests = Counter("questlog_requests", "Requests by path and status.", ["path", "status"], registry=own)
        self._latency = Histogram(
            "questlog_request_seconds", "From a whole request to its answer.", buckets=_SECONDS, registry=own
        )
        self._append = Histogram(
            "questlog_append_seconds", "A group commit: write and fsync.", buckets=_SECONDS, registry=own
        )
        self._children: dict[tuple[str, ...], Any] = {}

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._child(self._requests, path, str(status)).inc()
        self._latency.observe(seconds)

    def received(self, receipts: Iterable[Receipt]) -> None:
        """Count events that were answered."""
        for (outcome, reason), count in Counts((each.outcome, each.reason) for each in receipts).items():
            self._child(self._events, outcome, reason).inc(count)

    def appended(self, seconds: float) -> None:
        """Count a group commit."""
        self._append.observe(seconds)

    def _child(self, of: Any, *labels: str) -> Any:
        found = self._children.get(labels)
        if found is None:
            found = self._children[labels] = of.labels(*labels)
        return found


def exposition(gauges: Iterable[Gauge]) -> tuple[bytes, bytes]:
    """Return the content type and text of what all workers counted, and the project's figures."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST

    class Figures:
        def collect(self) -> Iterator[Any]:
            for name, meaning, values in gauges:
                labels = list(values[0][0]) if values else []
                family = GaugeMetricFamily(name, meaning, labels=labels)
                for by, value in values:
                    family.add_metric([by[label] for label in labels], value)
                yield family

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(Figures())
    return CONTENT_TYPE_LATEST.encode(), generate_latest(registry)
