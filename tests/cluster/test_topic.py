"""`questlog topic` creates a topic once, updates it to the settings, and reports what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from questlog.cli import cli
from questlog.errors import QuestlogError
from questlog.log.kafka.client import open_producer
from questlog.settings import load_settings
from support.cluster.kafka_broker import Broker


@pytest.fixture
def project(tmp_path: Path, broker: Broker) -> Path:
    (tmp_path / "plan.toml").write_text("[events.default]\n")
    write(tmp_path, broker, topic_retention_hours=1)
    return tmp_path


def write(folder: Path, broker: Broker, **settings: int) -> None:
    lines = [f'topic = "topic-{folder.name}-{folder.stat().st_ino}"', "topic_partitions = 2"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    lines += ["[kafka]", f'bootstrap.servers = "{broker.address}"']
    (folder / "questlog.toml").write_text("\n".join(lines))


def run(project: Path, *words: str) -> str:
    result = CliRunner().invoke(cli, ["-C", str(project), "topic", *words], catch_exceptions=False)
    return result.output


def test_create_is_idempotent_and_follows_the_settings(project: Path, broker: Broker) -> None:
    assert "created with 2 partition(s), 1 replica(s)" in run(project, "create")
    assert "matches the settings" in run(project, "create")
    write(project, broker, topic_retention_hours=2)
    assert json.loads(run(project, "create", "--json"))["done"] == ["retention.ms: 3600000 -> 7200000"]
    topic = json.loads(run(project, "describe", "--json"))
    assert (len(topic["partitions"]), topic["records"], topic["options"]["retention.ms"]) == (2, 0, "7200000")
    assert topic["options"]["message.timestamp.type"] == "LogAppendTime"


def test_the_number_of_partitions_of_an_existing_topic_never_changes(project: Path, broker: Broker) -> None:
    run(project, "create")
    path = project / "questlog.toml"
    path.write_text(path.read_text().replace("topic_partitions = 2", "topic_partitions = 5"))
    assert "stays at 2 partition(s)" in run(project, "create")


def test_a_missing_topic_is_named(project: Path) -> None:
    with pytest.raises(QuestlogError, match="does not exist") as raised:
        run(project, "describe")
    assert raised.value.hint == "questlog topic create"


def test_unreachable_brokers_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUESTLOG_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    with pytest.raises(QuestlogError, match=r"127\.0\.0\.1:1 does not answer"):
        run(project, "create")


@pytest.mark.parametrize("key, value", [("acks", "1"), ("enable.idempotence", "false")])
def test_a_setting_that_could_lose_events_is_refused(key: str, value: str) -> None:
    with pytest.raises(QuestlogError, match=f"{key} = '{value}' could lose or duplicate events"):
        open_producer({key: value})


def test_a_setting_unknown_to_librdkafka_is_named() -> None:
    with pytest.raises(QuestlogError, match=r"no\.such\.key"):
        open_producer({"no.such.key": "1"})


def test_secrets_come_from_a_file_or_the_environment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "questlog.toml"
    path.write_text('[kafka]\nsasl.password = "plain"\n')
    with pytest.raises(QuestlogError, match="use QUESTLOG_KAFKA_SASL_PASSWORD or"):
        load_settings(path)
    (tmp_path / "secret").write_text("hidden\n")
    path.write_text('[kafka]\nsasl.username = "me"\nsasl.password = { file = "secret" }\n')
    assert load_settings(path).kafka == {"sasl.username": "me", "sasl.password": "hidden"}
    path.write_text("")
    monkeypatch.setenv("QUESTLOG_KAFKA_SASL_PASSWORD", "hidden too")
    assert load_settings(path).kafka == {"sasl.password": "hidden too"}
