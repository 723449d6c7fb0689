"""A full disk stops landing, not the tables: it waits, says so, and goes on when there is space."""

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
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "questlog-test", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("leave", [0, 8_192, 24_576, 49_152])
def test_a_full_disk_stops_landing_loses_nothing_and_leaves_no_litter(small_disk: Path, leave: int) -> None:
    """However little space there is, the tables open and the next try finds no less space than this one."""
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


def test_a_running_lander_says_that_it_waits_and_goes_on_by_itself(
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
            assert caplog.text.count("waiting") <= 2  # said once, not once a try
            ballast.unlink()
            until(lambda: "goes on" in caplog.text)
        finally:
            stop.set()
            thread.join(30)
    assert sum(n for *_, n in facts(game)["ledger"]) == 30
    iceberg_agrees(game)


def test_a_lander_that_starts_on_a_full_disk_says_what_to_do(small_disk: Path) -> None:
    game = make_project(small_disk / "game", [records(30, 3, 0)])
    ballast = disks.fill(small_disk)
    with pytest.raises(LakeUnavailable) as refused, open_pipeline(game).lander():
        pass
    assert "free disk space" in refused.value.hint
    ballast.unlink()
    with open_pipeline(game).lander() as lander:
        assert lander.drain().records == 30
