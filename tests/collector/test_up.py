"""`questlog up` runs a collector alongside the lander: events in, rows in tables."""

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


def test_up_accepts_events_and_lands_them_until_it_is_stopped(tmp_path: Path) -> None:
    with Collector(tmp_path, command="up", environment=environment(free_port())) as up:
        assert up.send({"event_type": "join_guild", "guild": "up"}).outcomes == ["accepted"]
        until(lambda: landed(up), "it landed")
        assert up.send({"event_type": "join_guild", "guild": "up"}).status == 200
        assert up.stop(signal.SIGINT) == 0
        assert up.sql("select count(*) from join_guild where guild = 'up'") == [(2,)]
        assert "Traceback" not in up.output()


def test_a_port_in_use_is_reported_at_once_and_leaves_no_process(tmp_path: Path) -> None:
    port = free_port()
    with Collector(tmp_path / "one", command="up", environment=environment(port)):
        with pytest.raises(AssertionError, match="cannot listen on"):
            Collector(tmp_path / "two", command="up", environment=environment(port))
        ran = subprocess.run(
            [sys.executable, "-m", "questlog", "-C", str(tmp_path / "two"), "collect", "--port", str(port)],
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode != 0 and "another --port" in ran.stderr and "Traceback" not in ran.stderr
