"""A backfill from the topic: it adds missing rows to the lander's tables, or fills new tables in another namespace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from questlog.backfill import BackfillResult, Shown
from questlog.backfill.bounds import Bound, count_between, slices
from questlog.backfill.missing import MissingRows
from questlog.durable import FileLock, make_folder
from questlog.errors import LanderBusy, QuestlogError
from questlog.land import Landed
from questlog.land.spark.lander import BACKFILL_LOCK, SparkLander
from questlog.land.spark.session import CATALOG
from questlog.land.spark.source import TopicSource
from questlog.log import Position, merge
from questlog.log.kafka.spool import BUSY_SECONDS
from questlog.log.kafka.topic import Topic, describe_topic, offsets_at
from questlog.plan import Plan
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TOPIC_PROPERTY = "questlog.backfill-topic"
"""The property of a namespace that a backfill created; its value is the topic."""
_OLD_PROPERTY = "questlog.backfill"
"""The same property up to version 0.1, which used this name for the claim of a running backfill too."""


class TopicBackfill:
    """Backfills the tables that the lander fills; with `into` it fills new ones in the namespace of that name."""

    def __init__(
        self,
        session: Callable[[], SparkSession],
        plan: Plan,
        *,
        topic: str,
        kafka: Mapping[str, str],
        namespace: str,
        data: Path,
        records: int,
        into: str = "",
    ) -> None:
        self._session, self._plan = session, plan
        self._topic, self._kafka, self._namespace = topic, kafka, namespace
        self._data, self._records, self._into = data, records, into
        if into and not (into.isidentifier() and into.isascii() and into.islower()):
            raise QuestlogError(
                f"{into!r} is not a valid namespace", hint="use lowercase letters, digits and _, such as swords_2"
            )
        if into == namespace:
            raise QuestlogError(f"the lander fills namespace {into}", hint="omit --into, or name another namespace")

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> BackfillResult:
        """Backfill; return what was done, even if stopped early."""
        first, until = find_part(self._kafka, self._topic, start, end)
        backfill = self._fill_new if self._into else self._add_missing
        result = backfill(first, until, stop, shown)
        result.first, result.until = first, until
        return result

    def _fill_new(self, first: Position, until: Position, stop: StopSignal, shown: Shown) -> BackfillResult:
        total = count_between(first, until)
        lander = NamespaceLander(
            self._session, self._plan, topic=self._topic, kafka=self._kafka, namespace=self._into,
            data=self._data, batch_records=self._records,
        )  # fmt: skip
        with lander:
            landed = lander.fill(first, until, stop, lambda records, left: shown(records, total - left, total))
        return BackfillResult(records=landed.records, rows=landed.rows, duplicates=landed.duplicates)

    def _add_missing(self, first: Position, until: Position, stop: StopSignal, shown: Shown) -> BackfillResult:
        with self._alone(), self._spark() as spark:
            missing = MissingRows(
                spark, self._namespace, self._plan, TopicSource(self._kafka, self._topic), records=self._records
            )
            landed = missing.begin()
            end = {p: max(min(end, landed.get(p, 0)), first[p]) for p, end in until.items()}
            total = count_between(first, end)
            result = missing.add(first, end, stop, lambda records, left: shown(records, total - left, total))
        result.waiting = count_between(end, until)
        return result

    @contextmanager
    def _alone(self) -> Iterator[None]:
        make_folder(self._data)
        busy = LanderBusy(f"another backfill works on {self._data}", hint="questlog status")
        with FileLock(self._data / BACKFILL_LOCK).held(busy, BUSY_SECONDS):
            yield

    @contextmanager
    def _spark(self) -> Iterator[SparkSession]:
        spark = self._session()
        try:
            yield spark
        finally:
            with suppress(Exception):  # its process may be gone already
                spark.stop()


class NamespaceLander(SparkLander):
    """A lander on a bounded log: it fills `namespace` under one plan. Run again, it resumes where it stopped."""

    def __init__(
        self,
        session: Callable[[], SparkSession],
        plan: Plan,
        *,
        topic: str,
        kafka: Mapping[str, str],
        namespace: str,
        data: Path,
        batch_records: int,
    ) -> None:
        super().__init__(
            session, lambda: plan, topic=topic, kafka=kafka, namespace=namespace,
            data=data / "backfill" / namespace, publish=lambda _: None, batch_records=batch_records,
        )  # fmt: skip
        self._topic = topic

    def fill(self, first: Position, until: Position, stop: StopSignal, shown: Callable[[int, int], None]) -> Landed:
        """Land the records between the bounds that have not been landed there yet, or until asked to stop.

        *shown* is called with the number of records read and of offsets left. Nothing is published: the topic's
        consumer group describes the game's own tables.
        """
        self._claim_namespace()
        self._total = Landed()
        self._begin()
        start = merge(first, self._checkpoint.position)
        if start != self._checkpoint.position:
            # a half-landed first batch is finished from here, not from the beginning of the topic
            self._checkpoint = replace(self._checkpoint, position=start)
            self.state.save(self._checkpoint)
        for begin, end in slices(start, until, self._batch_records):
            if stop.is_set():
                break
            self._land(self._source.part(self._spark, begin, end), self._plan())
            self._background.finish(stop)
            shown(self._total.records, count_between(end, until))
        return self._total

    def _claim_namespace(self) -> None:
        """Create the namespace and mark it; refuse one that no backfill created."""
        if not self._spark.sql(f"show namespaces in {CATALOG} like '{self._namespace}'").collect():
            properties = f"('{TOPIC_PROPERTY}' = '{self._topic}')"
            self._spark.sql(f"create namespace {CATALOG}.{self._namespace} with dbproperties {properties}")
            return
        topic = self._property(TOPIC_PROPERTY) or self._property(_OLD_PROPERTY)
        if topic != self._topic:
            reason = f"is filled from topic {topic}" if topic else "exists, and no backfill created it"
            raise QuestlogError(f"namespace {self._namespace} {reason}", hint="give --into an unused name")

    def _property(self, key: str) -> str:
        rows = self._spark.sql(f"describe namespace extended {CATALOG}.{self._namespace}").collect()
        values = [v for row in rows for v in re.findall(rf"\({re.escape(key)},([^)]*)\)", str(row.info_value))]
        return values[0] if values else ""


def find_part(kafka: Mapping[str, str], topic: str, start: Bound, stop: Bound) -> tuple[Position, Position]:
    """Return the first offset and the end of each partition between the bounds, within what the topic still has."""
    description = describe_topic(kafka, topic)
    first = _offsets(kafka, description, start, {p.id: p.first for p in description.partitions})
    until = _offsets(kafka, description, stop, {p.id: p.end for p in description.partitions})
    return first, {partition: max(end, first[partition]) for partition, end in until.items()}


def _offsets(kafka: Mapping[str, str], topic: Topic, bound: Bound, otherwise: Position) -> Position:
    offsets = bound.offsets if bound.ms is None else offsets_at(kafka, topic, bound.ms)
    return {p.id: min(max(offsets.get(p.id, otherwise[p.id]), p.first), p.end) for p in topic.partitions}
