"""New tables from a part of the topic: the lander itself, in a namespace of its own, on a log that ends."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from questlog.errors import QuestlogError
from questlog.land import Landed, StopSignal
from questlog.land.part import count_between, slices
from questlog.land.spark import SparkLander
from questlog.land.spark.catalog import CATALOG
from questlog.land.spark.part import read_part
from questlog.log import Position, merge
from questlog.plan import Plan

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MARK = "questlog.backfill"
"""The property of a namespace that a backfill made; its value is the topic."""


class SparkRebuild(SparkLander):
    """Fills `namespace` from the topic under one plan. Run again it goes on where it stopped."""

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

    def fill(self, first: Position, until: Position, stop: StopSignal, shown: Callable[[int, int], None]) -> Landed:
        """Land what lies between and is not landed there yet, or until told to stop.

        *shown* is told how many records are read, and how many offsets are left. Nothing is published: the
        topic's consumer group says what the game's own tables hold.
        """
        self._claim()
        self._total = Landed()
        self._begin()
        if (start := merge(first, self._floor.position)) != self._floor.position:
            # what a first batch leaves half landed is finished from here, not from the topic's beginning
            self._floor.position = dict(start)
            self._tables.save(self._floor)
        for begin, end in slices(start, until, self._batch_records):
            if stop.is_set():
                break
            self._land(read_part(self._spark, self._kafka, self._topic, begin, end), self._plan())
            self._chores.finish(stop)
            shown(self._total.records, count_between(end, until))
        return self._total

    def _claim(self) -> None:
        """Make the namespace and mark it; refuse one that something else made."""
        known = self._spark.sql(f"show namespaces in {CATALOG} like '{self._namespace}'").collect()
        if known:
            rows = self._spark.sql(f"describe namespace extended {CATALOG}.{self._namespace}").collect()
            marks = [m for row in rows for m in re.findall(rf"\({re.escape(MARK)},([^)]*)\)", str(row.info_value))]
            if marks != [self._topic]:
                said = f"is filled from topic {marks[0]}" if marks else "is there, and no backfill made it"
                raise QuestlogError(f"namespace {self._namespace} {said}", hint="give --into a name that is not taken")
            return
        self._spark.sql(f"create namespace {CATALOG}.{self._namespace} with dbproperties ('{MARK}' = '{self._topic}')")
