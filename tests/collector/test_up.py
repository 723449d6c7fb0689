"""`questlog up` with a collector beside the lander: one process to start, events in, rows in tables."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.collector_process import Collector
from support.ports import free_port
from support.waiting import until


def environment(port: int) -> dict[str, Any]:
    return dict(os.environ) | {"QUESTLOG_COLLECT_PORT": str(port), "QUESTLOG_LAND_SECONDS": "0.1"}


def landed(collector: Collector) -> int:
    files = collector.root.rglob("*.parquet")
    return len([path for path in files if "quarantine" not in str(path)])


def test_up_takes_events_and_lands_them_until_told_to_stop(tmp_path: Path) -> None:
    with Collector(tmp_path, command="up", environment=environment(free_port())) as up:
        assert up.send({"event_type": "join_guild", "guild": "up"}).outcomes == ["accepted"]
        until(lambda: landed(up), "it landed")
        assert up.send({"event_type": "join_guild", "guild": "up"}).status == 200
        assert up.stop(signal.SIGINT) == 0
        assert up.sql("select count(*) from join_guild where guild = 'up'") == [(2,)]
        assert "Traceback" not in up.said()


def test_a_port_that_is_taken_is_told_at_once_and_nothing_stays(tmp_path: Path) -> None:
    port = free_port()
    with Collector(tmp_path / "one", command="up", environment=environment(port)):
        with pytest.raises(AssertionError, match="cannot listen on"):
            Collector(tmp_path / "two", command="up", environment=environment(port))
        said = subprocess.run(
            [sys.executable, "-m", "questlog", "-C", str(tmp_path / "two"), "collect", "--port", str(port)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert said.returncode != 0 and "another --port" in said.stderr and "Traceback" not in said.stderr
