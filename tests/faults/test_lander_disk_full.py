"""A full disk pauses landing and leaves the tables readable; landing resumes when there is space."""

import logging
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.errors import LakeUnavailable
from questlog.lake.state import load_state
from questlog.land import loop
from questlog.pipeline import open_pipeline
from support import disks
from support.crashing_lander import facts, iceberg_agrees, make_project, records
from support.waiting import until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "questlog-test", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("leave", [0, 8_192, 24_576, 49_152])
def test_a_full_disk_stops_landing_and_leaves_tables_and_free_space_intact(small_disk: Path, leave: int) -> None:
    """However little space is left, the tables open and a failed attempt takes no space from the next."""
    game = make_project(small_disk / "game", [records(30, 3, 0)])
    with open_pipeline(game, batch_records=1000).lander() as lander:
        lander.drain()
        before = facts(game)
        pipeline = open_pipeline(game, min_free_mb=0)
        pipeline.log.append(records(30, 4, 30))
        pipeline.log.close()  # type: ignore[attr-defined]
        ballast = disks.fill(small_disk, leave)
        free = []
        for _ in range(4):
            with pytest.raises(LakeUnavailable, match="cannot be written"):
                lander.step()
            free.append(os.statvfs(small_disk).f_bavail)
        assert free[-1] >= free[1]
        for name, table in load_state(open_pipeline(game).project.catalog).tables.items():
            assert set(before[name]) and table.files
        iceberg_agrees(game)
        ballast.unlink()
        lander.drain()
    assert sum(n for *_, n in facts(game)["ledger"]) == 60
    iceberg_agrees(game)


def test_a_running_lander_reports_the_full_disk_and_resumes_by_itself(
    small_disk: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "WAIT_SECONDS", 0.05)
    game = make_project(small_disk / "game", [records(30, 3, 0)])
    pipeline = open_pipeline(game)
    stop = threading.Event()
    with caplog.at_level(logging.INFO, "questlog.land"), pipeline.lander() as lander:
        ballast = disks.fill(small_disk)
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            until(lambda: "waiting" in caplog.text)
            assert "free disk space" in caplog.text
            assert caplog.text.count("waiting") <= 2  # reported once, not at every attempt
            ballast.unlink()
            until(lambda: "resumed" in caplog.text)
        finally:
            stop.set()
            thread.join(30)
    assert sum(n for *_, n in facts(game)["ledger"]) == 30
    iceberg_agrees(game)


def test_a_lander_refuses_to_start_on_a_full_disk_with_a_hint(small_disk: Path) -> None:
    game = make_project(small_disk / "game", [records(30, 3, 0)])
    ballast = disks.fill(small_disk)
    with pytest.raises(LakeUnavailable) as refused, open_pipeline(game).lander():
        pass
    assert "free disk space" in refused.value.hint
    ballast.unlink()
    with open_pipeline(game).lander() as lander:
        assert lander.drain().records == 30
