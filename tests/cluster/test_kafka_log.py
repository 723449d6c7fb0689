"""A Kafka topic keeps the log's contract: the suite of tests/contracts, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import test_log as contract
from contracts.test_log import *  # noqa: F403
from questlog.log import Log
from questlog.log.kafka import KafkaLog
from questlog.log.kafka.topic import create_topic
from questlog.settings import load_settings
from support.cluster.kafka_broker import Broker


def open_kafka(folder: Path) -> Log:
    """Open the topic of *folder*, which is created at its first use."""
    topic, config = f"log-{folder.name}-{folder.stat().st_ino}", load_settings(folder / "questlog.toml").kafka
    if not (folder / "claims").exists():
        create_topic(config, topic, partitions=6, replication=1, retention_hours=1)
    return KafkaLog(topic, config, folder / "claims")


@pytest.fixture(params=["kafka"])
def opener(
    request: pytest.FixtureRequest, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[contract.Opener]:
    """A function that opens one and the same topic, each time as another process would."""
    monkeypatch.setenv("QUESTLOG_KAFKA_BOOTSTRAP_SERVERS", broker.address)
    monkeypatch.setitem(contract.LOGS, "kafka", open_kafka)
    opened: list[Log] = []

    def open_log() -> Log:
        opened.append(open_kafka(tmp_path))
        return opened[-1]

    yield open_log
    for log in opened:
        getattr(log, "close", lambda: None)()
