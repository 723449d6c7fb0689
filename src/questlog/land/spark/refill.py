"""A backfill from its beginning to its end: which part of the topic, which tables, with Spark for as long."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from questlog.errors import QuestlogError
from questlog.land import StopSignal
from questlog.land.part import Bound, Filled, Shown, count_between
from questlog.land.spark import BACKFILL_LOCK
from questlog.land.spark.backfill import SparkBackfill
from questlog.land.spark.part import find_part
from questlog.land.spark.rebuild import SparkRebuild
from questlog.land.spark.tables import SparkTables
from questlog.log.kafka.spool import take_lock
from questlog.plan import Plan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class TopicBackfill:
    """Fills the tables that the lander fills, or with `into` new ones in a namespace of that name."""

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
            raise QuestlogError(f"{into!r} is no name of a namespace", hint="small letters, digits and _, as swords_2")
        if into == namespace:
            raise QuestlogError(f"namespace {into} is what the lander fills", hint="leave out --into, or name another")

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> Filled:
        """Fill; return what was done, when told to stop too."""
        first, until = find_part(self._kafka, self._topic, start, end)
        work = self._rebuild if self._into else self._refill
        done = work(first, until, stop, shown)
        done.first, done.until = first, until
        return done

    def _rebuild(self, first: Mapping[int, int], until: Mapping[int, int], stop: StopSignal, shown: Shown) -> Filled:
        total = count_between(first, until)
        lander = SparkRebuild(
            self._session, self._plan, topic=self._topic, kafka=self._kafka, namespace=self._into,
            data=self._data, batch_records=self._records,
        )  # fmt: skip
        with lander:
            landed = lander.fill(first, until, stop, lambda records, left: shown(records, total - left, total))
        return Filled(records=landed.records, rows=landed.rows, duplicates=landed.duplicates)

    def _refill(self, first: Mapping[int, int], until: Mapping[int, int], stop: StopSignal, shown: Shown) -> Filled:
        with self._alone(), self._spark() as spark:
            work = SparkBackfill(
                SparkTables(spark, self._namespace), self._plan,
                topic=self._topic, kafka=self._kafka, records=self._records,
            )  # fmt: skip
            floor = work.begin()
            mine = {p: max(min(end, floor.get(p, 0)), first[p]) for p, end in until.items()}
            total = count_between(first, mine)
            done = work.fill(first, mine, stop, lambda records, left: shown(records, total - left, total))
        done.waiting = count_between(mine, until)
        return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._data.mkdir(parents=True, exist_ok=True)
        lock = take_lock(self._data / BACKFILL_LOCK, f"another backfill works on {self._data}")
        try:
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _spark(self) -> Iterator[SparkSession]:
        spark = self._session()
        try:
            yield spark
        finally:
            with suppress(Exception):  # its process may be gone already
                spark.stop()
