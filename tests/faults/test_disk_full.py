"""A 16 MB disk fills up, fails, and recovers under a running server, lander and queries."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import disks
from support.game_processes import FAST_LANDING, Clients, ForkServer, Game, assert_landed, assert_promise
from support.waiting import until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[disks.Disk]:
    if reason := disks.why_not(tmp_path / "trial"):
        pytest.skip(reason)
    with disks.Disk(tmp_path / "small", 16) as disk:
        yield disk


def start(fork_server: ForkServer, tmp_path: Path, disk: disks.Disk, watermark_mb: int) -> Game:
    environment = {
        **FAST_LANDING, "QUESTLOG_DATA": f"{disk.path}/data", "QUESTLOG_MIN_FREE_MB": str(watermark_mb),
        "QUESTLOG_RETRY_AFTER_SECONDS": "3",
    }  # fmt: skip
    return Game(fork_server, tmp_path / "game", environment=environment)


def assert_nothing_accepted(clients: Clients) -> None:
    """Assert that none of the next thirty requests is acknowledged."""
    accepted, refused = len(clients.acknowledged), len(clients.refusals)
    until(lambda: len(clients.refusals) > refused + 30, "refusals")
    assert len(clients.acknowledged) == accepted


@pytest.mark.parametrize("watermark_mb", [4, 0], ids=["at the watermark", "at the last byte, without a watermark"])
def test_a_full_disk_refuses_and_loses_nothing(
    fork_server: ForkServer, tmp_path: Path, disk: disks.Disk, watermark_mb: int
) -> None:
    game = start(fork_server, tmp_path, disk, watermark_mb)
    running = [game.serve("gunicorn"), game.land("up")]
    with Clients(game, seed=1) as clients:
        for _ in range(2):
            before = len(clients.acknowledged)
            until(lambda before=before: len(clients.acknowledged) > before + 30, "events are accepted")
            ballast = disks.fill(disk.path, leave=3 << 20 if watermark_mb else 0)
            refused = len(clients.refusals)
            until(lambda n=refused: len(clients.refusals) > n + 20, "refusals")
            assert clients.refusals[refused] == (503, "3")
            if watermark_mb:
                assert_nothing_accepted(clients)
            acknowledged = set(clients.acknowledged)
            assert_promise(game.marks(), acknowledged, set(clients.sent), "on the full disk")
            ballast.unlink()
            after = len(clients.acknowledged)
            until(lambda after=after: len(clients.acknowledged) > after + 10, "events are accepted again")
    for process in running:
        process.signal(15)
        assert process.wait(60) is not None
    game.run("land")
    assert_landed(game, clients.acknowledged, clients.sent)
    assert {status for status, _ in clients.refusals} == {503}


def test_a_failing_disk_refuses_and_recovers(fork_server: ForkServer, tmp_path: Path, disk: disks.Disk) -> None:
    """Writes and fsync fail while the server runs, as when the kernel makes a failing disk read-only."""
    game = start(fork_server, tmp_path, disk, 1)
    server = game.serve("gunicorn")
    with Clients(game, seed=2) as clients:
        until(lambda: len(clients.acknowledged) > 30, "events are accepted")
        server.freeze()  # an fsync that Linux is running during the cut may still return success
        disk.cut_power()  # from now on every write and fsync fails; everything acknowledged is on the disk
        server.signal(signal.SIGCONT)
        refused = len(clients.refusals)
        until(lambda: len(clients.refusals) > refused + 20, "refusals")
        assert_nothing_accepted(clients)
        assert {status for status, _ in clients.refusals[refused:]} == {503}
    server.kill()
    disk.unmount()
    disk.mount()
    assert_promise(game.marks(), clients.acknowledged, clients.sent, "after the disk has recovered")
    server = game.serve("gunicorn")
    with Clients(game, seed=3) as again:
        until(lambda: len(again.acknowledged) > 10, "events are accepted again")
    server.kill()
    acknowledged, sent = clients.acknowledged | again.acknowledged, clients.sent | again.sent
    game.run("land")
    assert_landed(game, acknowledged, sent)
