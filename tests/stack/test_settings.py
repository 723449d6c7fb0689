"""Addresses that are not set default to the project's own stack, on any ports."""

from pathlib import Path

import pytest

from questlog.settings import find_project
from questlog.stack.layout import USUAL_PORTS, settle_ports


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text('[game]\nname = "swords"\n')
    return tmp_path


def test_without_a_stack_the_usual_addresses_are_the_default(project: Path) -> None:
    settings = find_project(project).settings
    assert (settings.metastore, settings.warehouse) == ("thrift://127.0.0.1:9083", "hdfs://127.0.0.1:8020/warehouse")
    assert (settings.kafka, settings.presto) == ({}, {})


def test_addresses_follow_the_ports_of_the_stack(project: Path) -> None:
    ports = settle_ports(project / ".questlog" / "stack", "kafka=19092 metastore=19083 namenode=18020 presto=18080")
    assert ports["datanode"] == USUAL_PORTS["datanode"]
    settings = find_project(project).settings
    assert (settings.metastore, settings.warehouse) == ("thrift://127.0.0.1:19083", "hdfs://127.0.0.1:18020/warehouse")
    assert settings.kafka == {"bootstrap.servers": "127.0.0.1:19092"}
    assert settings.presto == {"url": "http://127.0.0.1:18080"}


def test_addresses_follow_the_stack_to_another_data_folder(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = tmp_path_factory.mktemp("data")
    settle_ports(data / "stack", "kafka=19092")
    (project / "questlog.toml").write_text(f'data = "{data}"\n')
    assert find_project(project).settings.kafka == {"bootstrap.servers": "127.0.0.1:19092"}


def test_a_setting_takes_precedence(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_ports(project / ".questlog" / "stack", "free")
    monkeypatch.setenv("QUESTLOG_PRESTO_URL", "https://presto.example:8443")
    (project / "questlog.toml").write_text(
        'metastore = "thrift://metastore.example:9083"\n[kafka]\nmetadata.broker.list = "kafka.example:9092"\n'
    )
    settings = find_project(project).settings
    assert (settings.metastore, settings.warehouse) == (
        "thrift://metastore.example:9083", "hdfs://127.0.0.1:8020/warehouse",
    )  # fmt: skip
    assert settings.kafka == {"metadata.broker.list": "kafka.example:9092"}
    assert settings.presto == {"url": "https://presto.example:8443"}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"kafka": 1}', "\x00"])
def test_a_damaged_list_of_ports_is_ignored(project: Path, text: str) -> None:
    folder = project / ".questlog" / "stack"
    folder.mkdir(parents=True)
    (folder / "ports.json").write_text(text)
    assert find_project(project).settings.kafka == {}
