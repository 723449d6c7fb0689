"""Run the contract of landers, tests/contracts/test_lander.py, on Kafka, Spark and Presto."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.test_spark_lander import Game as SparkGame
from cluster.test_spark_lander import spark
from contracts import test_lander as contract
from contracts.test_lander import *  # noqa: F403
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.source import commit_offsets
from questlog.log.kafka.topic import describe_topic
from questlog.query.presto import PrestoServer
from questlog.query.presto.committed import read_committed
from support.cluster.spark_options import Kept

__all__ = ["spark"]
pytestmark = pytest.mark.timeout(900)


class OnSpark:
    """A project on the cluster profile: it forwards what it sends, and reads the tables through Presto."""

    def __init__(self, folder: Path, batch_records: int, servers: dict[str, str], spark: Any, presto: str) -> None:
        folder.mkdir()
        self._game, self._batch_records = SparkGame(folder, servers, spark), batch_records
        (folder / "plan.toml").write_text(contract.PLAN)
        self._server = PrestoServer(presto, "iceberg", self._game.name)

    def send(self, *records: bytes) -> None:
        self._game.pipeline.log.append(records)
        self._game.forward()

    def lander(self) -> SparkLander:
        game = self._game
        return SparkLander(
            lambda: Kept(game.spark), lambda: game.pipeline.plan, topic=game.name, kafka=game.kafka,
            namespace=game.name, data=game.pipeline.project.data, batch_records=self._batch_records,
            publish=lambda position: commit_offsets(game.kafka, game.name, position), land_seconds=0.5,
        )  # fmt: skip

    def counts(self) -> contract.Counts:
        committed = read_committed(self._server, 120)
        accepted = describe_topic(self._game.kafka, self._game.name).records
        duplicate = committed.counts.get("duplicate", 0)
        missing = committed.counts.get("records", 0) - committed.landed - committed.quarantined_records - duplicate
        return contract.Counts(
            accepted, accepted - sum(committed.checkpoint.values()), missing, duplicate,
            {name: table.rows for name, table in committed.tables.items() if table.rows},
            {(each.event_type, each.reason): each.rows for each in committed.quarantined},
        )  # fmt: skip

    def ids(self) -> list[tuple[str, str]]:
        return sorted((table, *row) for table in self.counts().rows for row in self._game.rows(table, "event_id"))

    def close(self) -> None:
        self._game.pipeline.log.close()


@pytest.fixture(params=["spark"])
def make(tmp_path: Path, servers: dict[str, str], spark: Any, stack: Any) -> Iterator[Callable[..., contract.Game]]:
    """A function that creates games, each with its own topic and tables."""
    made: list[OnSpark] = []

    def new(batch_records: int = 50_000) -> OnSpark:
        made.append(OnSpark(tmp_path / f"game{len(made)}", batch_records, servers, spark, stack.addresses.presto))
        return made[-1]

    yield new
    for game in made:
        game.close()
