"""A client and a collector with scripted answers on a real socket."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import KEY, Collector, Make

import questlog
from questlog.client import sender

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

PLAN = """
[events.level_failed.fields]
level = { type = "int", required = true }
reason = "string"
[events.identify.fields]
country = "string"
[events.strict]
mode = "reject"
[events.strict.fields]
level = { type = "int", required = true }
"""


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    (tmp_path / "plan.toml").write_text(PLAN)
    collector = Collector(tmp_path)
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield collector
    collector.shutdown()
    collector.server_close()
    thread.join()


@pytest.fixture
def make(collector: Collector, tmp_path: Path) -> Iterator[Make]:
    made: list[questlog.Client] = []

    def make(url: str = collector.url, key: str = KEY, **options: Any) -> questlog.Client:
        options = {"queue": tmp_path / "queue.db", "flush_seconds": 0.01, **options}
        made.append(questlog.Client(url, key, **options))
        return made[-1]

    yield make
    for client in made:
        client.shutdown(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(sender, "LONGEST_WAIT", 0.05)
