"""`questlog status --json` on the cluster profile keeps its keys and their order: scripts and alarms read them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from questlog.cli import cli
from questlog.errors import QuestlogError
from questlog.log.kafka import forward, spool, topic
from questlog.query.presto import PrestoEngine
from questlog.query.presto.committed import Committed, CommittedTable, Quarantined

HERE = Path(__file__).parent
NOW = 1_900_000_000
PLAN = '[events.join_guild.fields]\nguild = { type = "string" }\n'
COMMITTED = Committed(
    tables={
        "a": CommittedTable(5, 2, 1234, (NOW - 3) * 1000, {0: 4, 1: 9}),
        "b": CommittedTable(0, 0, 0, 0, None),
        "c": CommittedTable(3, 1, 99999, (NOW - 90) * 1000, None),
        "quarantine": CommittedTable(4, 1, 77, (NOW - 4000) * 1000, {0: 4}),
    },
    checkpoint={0: 4, 1: 9},
    counts={"records": 13, "duplicate": 2, "resent": 1, "lost": 3},
    epoch=7,
    committed_ms=(NOW - 3) * 1000,
    quarantined=(Quarantined("x", "bad", 2), Quarantined("", "log_damaged", 1), Quarantined("y", "bad", 1)),
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "questlog.toml").write_text('profile = "cluster"\nmetastore = "thrift://127.0.0.1:9"\n')
    monkeypatch.setattr(time, "time", lambda: NOW + 0.25)
    return tmp_path


def status(project: Path, code: int) -> str:
    """Return the document, without what differs from project to project."""
    result = CliRunner().invoke(cli, ["-C", str(project), "status", "--json"])
    assert result.exit_code == code, result.output
    document = json.loads(result.stdout)
    document |= {"project": "PROJECT", "plan_version": "PLAN"}
    return json.dumps(document, indent=2) + "\n"


def returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def partition(number: int, first: int, end: int) -> SimpleNamespace:
    return SimpleNamespace(id=number, first=first, end=end)


def test_every_component_answers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partitions = [partition(0, 0, 10), partition(1, 5, 9), partition(2, 0, 0)]
    monkeypatch.setattr(topic, "describe_topic", returning(SimpleNamespace(partitions=partitions)))
    monkeypatch.setattr(topic, "oldest_ms", returning((NOW - 7) * 1000))
    monkeypatch.setattr(forward, "landed_offsets", returning({0: 4, 1: 9}))
    monkeypatch.setattr(spool, "read_forwarding", returning(spool.Forwarding("abc", {0: 3}, {0: 1})))
    monkeypatch.setattr(PrestoEngine, "committed", returning(COMMITTED))
    assert status(project, code=1) == (HERE / "status-counts.json").read_text(), "the ledger does not balance"


def test_nothing_has_landed_yet(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic, "describe_topic", returning(SimpleNamespace(partitions=[])))
    monkeypatch.setattr(forward, "landed_offsets", returning({}))
    monkeypatch.setattr(PrestoEngine, "committed", returning(Committed()))
    assert status(project, code=0) == (HERE / "status-empty.json").read_text()


def test_every_component_is_blocked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_topic(*_: object) -> None:
        raise QuestlogError("Kafka at x does not answer", hint="look")

    def refuse_tables(*_: object) -> None:
        raise QuestlogError("Presto at y does not answer")

    error = spool.ForwardError("no broker", "try it", (NOW - 12) * 1000)
    monkeypatch.setattr(topic, "describe_topic", refuse_topic)
    monkeypatch.setattr(spool, "read_forwarding", returning(spool.Forwarding("abc", {0: 3}, {0: 1}, error, True)))
    monkeypatch.setattr(PrestoEngine, "committed", refuse_tables)
    assert status(project, code=1) == (HERE / "status-blocked.json").read_text()
