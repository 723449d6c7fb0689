"""One stack of real servers for all of these tests; `make test-cluster` downloads and starts it."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from questlog.pipeline import Pipeline
from questlog.query.presto import PrestoEngine, PrestoServer
from questlog.stack import Stack, jars
from support.cluster import shop_tables
from support.cluster.kafka_broker import Broker
from support.paths import ROOT

HERE = Path(__file__).parent
NEED_CLIENTS = [
    "faults", "test_fence.py", "test_forwarder.py", "test_kafka_log.py", "test_parity.py", "test_promotion.py",
    "test_spark_backfill.py", "test_spark_contract.py", "test_spark_lander.py", "test_story.py", "test_topic.py",
    "test_maintenance.py",
]  # fmt: skip
collect_ignore = [] if os.environ.get("QUESTLOG_CLUSTER") else NEED_CLIENTS
"""Modules that import the cluster's clients cannot be collected where these are not installed."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests to `make test-cluster`."""
    if not os.environ.get("QUESTLOG_CLUSTER"):
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs the servers; run make test-cluster"))


@pytest.fixture(scope="session", autouse=True)
def kcat(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Put a stand-in for kcat on the path of a machine that has none."""
    if shutil.which("kcat") is None and shutil.which("kafkacat") is None:
        program = tmp_path_factory.mktemp("kcat") / "kcat"
        program.write_text(f'#!/bin/sh\ncd "{ROOT}/tests" && exec "{sys.executable}" -m support.cluster.kcat "$@"\n')
        program.chmod(0o755)
        os.environ["PATH"] = f"{program.parent}:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, HDFS, Metastore and Presto, all healthy, on free ports; they end with this process, however it ends.

    With QUESTLOG_STACK these are the servers of the stack that runs in that folder, and they keep running. Tests that
    kill or freeze servers require QUESTLOG_STACK_MAY_DIE as well.
    """
    if "QUESTLOG_STACK" in os.environ:
        yield Stack(os.environ["QUESTLOG_STACK"])
        return
    with Stack(tmp_path_factory.mktemp("stack"), ports="free") as running:
        yield running


@pytest.fixture(scope="session")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Shop"]:
    """One game's events in DuckDB, Spark and Presto."""
    folder = tmp_path_factory.mktemp("shop")
    pipeline = shop_tables.fill_embedded(folder / "game", SEED)
    spark = shop_tables.open_spark(stack)
    schema = f"shop_{os.getpid()}"  # a stack that stays has those of other runs
    shop_tables.copy_tables(pipeline, spark, schema, folder)
    server = PrestoServer(stack.addresses.presto, "iceberg", schema)
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
    server: PrestoServer


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker alone, for tests that kill and freeze it."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    yield broker
    broker.thaw()
    broker.kill()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> dict[str, str]:
    """Addresses of Kafka, HDFS and the Metastore: from the environment, or of the tests' own stack."""
    if "QUESTLOG_METASTORE" in os.environ:
        return {
            "kafka": os.environ["QUESTLOG_KAFKA_BOOTSTRAP_SERVERS"],
            "metastore": os.environ["QUESTLOG_METASTORE"],
            "warehouse": os.environ["QUESTLOG_WAREHOUSE"],
            "spark_jars": ",".join(jars("spark")),
        }
    at = request.getfixturevalue("stack").addresses
    return {
        "kafka": at.kafka, "metastore": at.metastore, "warehouse": at.warehouse, "spark_jars": ",".join(jars("spark")),
    }  # fmt: skip
