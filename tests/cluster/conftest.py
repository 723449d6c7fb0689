"""One stack of real servers for all of these tests; `make test-cluster` brings and starts it."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from questlog.pipeline import Pipeline
from questlog.query.presto import PrestoEngine, Server
from questlog.stack import Stack

sys.path.insert(0, str(Path(__file__).parent))
import lake

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests to `make test-cluster`."""
    if not os.environ.get("QUESTLOG_CLUSTER"):
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs the servers; run make test-cluster"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, HDFS, Metastore and Presto, all healthy, on free ports; gone with this process, however it ends."""
    with Stack(tmp_path_factory.mktemp("stack"), ports="free") as running:
        yield running


@pytest.fixture(scope="session")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Shop"]:
    """One game's events in DuckDB, Spark and Presto."""
    folder = tmp_path_factory.mktemp("shop")
    pipeline = lake.fill_embedded(folder / "game", SEED)
    spark = lake.open_spark(stack)
    lake.copy_tables(pipeline, spark, "shop", folder)
    server = Server(stack.addresses.presto, "iceberg", "shop")
    presto = PrestoEngine(server, lambda: pipeline.plan, seconds=60)
    presto.refresh_events()
    yield Shop(pipeline, spark, presto, server)
    spark.stop()
    pipeline.close()


SEED = 7


@dataclass
class Shop:
    """The three engines over the same events."""

    embedded: Pipeline
    spark: Any
    presto: PrestoEngine
    server: Server
