"""`questlog.Client` and a collector with write keys: wrong, revoked and rate-limited keys lose no event."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import questlog
from support.collector_process import Collector
from support.waiting import until

PLAN = "[events.level_failed.fields]\nlevel = 'int'\n"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    root = tmp_path_factory.mktemp("keyed")
    (root / "plan.toml").write_text(PLAN)
    make_key(root, "someone-else")
    with Collector(root) as collector:
        until(lambda: collector.send({"event_type": "level_failed"}).status == 401, "it asks for keys")
        yield collector


def key_command(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "questlog", "-C", str(root), "key", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def make_key(root: Path, source: str, *options: str) -> str:
    return str(json.loads(key_command(root, "create", source, "--json", *options))["key"])


def client_of(keyed: Collector, key: str, queue: Path) -> questlog.Client:
    return questlog.Client(f"http://127.0.0.1:{keyed.port}", key, queue=queue, flush_seconds=0.01)


def received(keyed: Collector, player: str) -> list[tuple[object, ...]]:
    question = f"select level, sent_time is not null from level_failed where player_id = '{player}' order by level"
    return keyed.sql(question)


def test_events_wait_for_a_valid_key(keyed: Collector, tmp_path: Path) -> None:
    key = make_key(keyed.root, "game")
    queue = tmp_path / "queue.db"
    with client_of(keyed, key, queue) as client:
        client.track("level_failed", player_id="ann", level=1)
        assert client.flush(20)
    key_command(keyed.root, "revoke", "game")
    probe = {"authorization": f"Bearer {key}"}
    until(lambda: keyed.send({"event_type": "level_failed"}, **probe).status == 401, "the key is revoked")
    client = client_of(keyed, key, queue)
    client.track("level_failed", player_id="ann", level=2)
    until(lambda: "questlog key list" in client.error, "the error has a hint")
    assert "answered 401" in client.error and key not in client.error
    assert not client.shutdown(0.2)
    with client_of(keyed, make_key(keyed.root, "game"), queue) as client:
        assert client.flush(20)
        assert client.counts()["waiting"] == 0
    assert received(keyed, "ann") == [(1, True), (2, True)]


def test_sending_slows_down_to_the_rate_of_the_key(
    keyed: Collector, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(keyed, make_key(keyed.root, "slow", "--rate", "20"), tmp_path / "queue.db") as client:
        for level in range(60):
            client.track("level_failed", player_id="bob", level=level)
            if level % 20 == 19:
                client.flush(0.3)
        assert client.flush(30), client.error
        assert client.counts() == {"waiting": 0, "accepted": 60, "duplicate": 0, "quarantined": 0, "rejected": 0}
    assert received(keyed, "bob") == [(level, True) for level in range(60)]
    assert "answered 429" in caplog.text
