"""One lander works at a time: a killed one is replaced immediately, and a frozen one cannot commit after a takeover."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.errors import LanderBusy
from questlog.land.lease import Lease
from questlog.pipeline import open_pipeline
from support.crashing_lander import BATCH, facts, iceberg_agrees, make_project, records
from support.waiting import until

LANDER = """
import sys, time
from pathlib import Path
from questlog.errors import LanderFenced
from questlog.lake.iceberg import IcebergTables
from questlog.pipeline import open_pipeline

folder, freeze_at = Path(sys.argv[1]), sys.argv[2]
moving = IcebergTables._move

def move(self, steps, *args):
    # Everything is written and fsynced; only the catalog has not moved yet.
    if freeze_at in [step.table for step in steps]:
        (folder / "ready").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)  # waits for the test, in another process
    moving(self, steps, *args)

IcebergTables._move = move
with open_pipeline(folder, batch_records=8).lander() as lander:
    try:
        lander.drain()
    except LanderFenced as error:
        print("fenced:", error)
        sys.exit(3)
print("landed")
"""


@pytest.fixture
def game(tmp_path: Path) -> Path:
    return make_project(tmp_path / "game", [records(BATCH, 1, start) for start in (0, BATCH)])


@pytest.fixture
def frozen_lander(game: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a lander that is stopped by SIGSTOP in the middle of a commit."""
    process = subprocess.Popen(
        [sys.executable, "-c", LANDER, str(game), "join_guild"], stdout=subprocess.PIPE, text=True
    )
    try:
        until(lambda: (game / "ready").exists() or process.poll() is not None)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGSTOP)
        yield process
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def backdate(game: Path, seconds: float) -> None:
    """Move the holder's last heartbeat *seconds* into the past."""
    lock = open_pipeline(game).project.data / "lander.lock"
    then = time.time() - seconds
    os.utime(lock, (then, then))


def test_a_frozen_lander_fails_its_commit_after_a_takeover(game: Path, frozen_lander: subprocess.Popen[str]) -> None:
    """SIGSTOP in a commit, takeover, SIGCONT: nothing is lost or duplicated, and the old lander reports why it
    stops."""
    with pytest.raises(LanderBusy), open_pipeline(game).lander():
        pass  # too early: its last heartbeat is recent
    backdate(game, 60)
    with open_pipeline(game, batch_records=BATCH).lander() as successor:
        successor.step()
        (game / "go").touch()
        os.kill(frozen_lander.pid, signal.SIGCONT)
        output, _ = frozen_lander.communicate(timeout=120)
        assert (frozen_lander.returncode, output.split(":")[0]) == (3, "fenced")
        successor.drain()
    actual = facts(game)
    assert sum(n for *_, n in actual["ledger"]) == 2 * BATCH
    assert all(n == 1 for ids in (actual["join_guild"], actual["quarantine"]) for n in ids.values())
    iceberg_agrees(game)


def test_a_lander_that_took_over_keeps_the_lease_when_the_old_lock_is_released(
    game: Path, frozen_lander: subprocess.Popen[str]
) -> None:
    backdate(game, 60)
    with open_pipeline(game).lander() as successor:
        frozen_lander.kill()
        frozen_lander.wait()
        with pytest.raises(LanderBusy, match=f"process {os.getpid()} "), open_pipeline(game).lander():
            pass
        successor.drain()  # takes the released lock, so that its own death is detected immediately


def test_a_killed_lander_is_replaced_immediately(game: Path, frozen_lander: subprocess.Popen[str]) -> None:
    frozen_lander.kill()
    frozen_lander.wait()
    with open_pipeline(game, batch_records=BATCH).lander() as lander:  # raises LanderBusy if it has to wait
        lander.drain()
    assert sum(n for *_, n in facts(game)["ledger"]) == 2 * BATCH


def test_a_lease_names_its_holder_and_epoch(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.db"
    with Lease(catalog) as first:
        assert first.epoch == 1
        with pytest.raises(LanderBusy, match=f"process {os.getpid()}"), Lease(catalog):
            pass
        with Lease(catalog, stale_seconds=0) as second:
            assert second.epoch == 2
            with pytest.raises(Exception, match="number 1"):
                first.heartbeat()
