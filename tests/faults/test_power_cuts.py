"""The power is cut at random moments: the tables open, and every event answered with 2xx is in them exactly once."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import disks
from support.game_processes import FAST_LANDING, Clients, ForkServer, Game, Process, assert_landed, assert_promise

CUTS = int(os.environ.get("QUESTLOG_CUTS", "40"))
SEED = int(os.environ.get("QUESTLOG_SEED", random.randrange(10**6)))


@pytest.mark.timeout(600 + 3 * CUTS)
def test_power_cuts_leave_readable_tables_with_every_acknowledged_event_once(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    """One disk goes through all the cuts, so that each cut meets whatever the last one left behind."""
    if reason := disks.why_not(tmp_path / "trial"):
        pytest.skip(reason)
    print(f"\nseed {SEED}: {CUTS} power cuts")
    chance = random.Random(SEED)
    with disks.Disk(tmp_path, 256 + CUTS) as disk:
        environment = {**FAST_LANDING, "QUESTLOG_DATA": f"{disk.path}/data", "QUESTLOG_MIN_FREE_MB": "8"}
        game = Game(fork_server, tmp_path / "game", environment=environment)
        with Clients(game, seed=SEED) as clients, ThreadPoolExecutor(2) as at_once:
            cut, longest, counts = 0, 0.7, Counter[str]()
            while cut < CUTS or len(counts) < len(clients.acknowledged) / 4:
                cut += 1
                live_until_cut(game, disk, chance, longest)
                acknowledged = set(clients.acknowledged)
                readers = ("sql", "iceberg")
                for reader, counts in zip(readers, at_once.map(game.marks, readers), strict=True):
                    needed = acknowledged if reader == "sql" else set()
                    assert_promise(counts, needed, set(clients.sent), f"after cut {cut}, read with {reader}")
                if len(counts) < len(acknowledged) / 4:  # a busy machine: let landers live until they have landed
                    longest = min(1.1 * longest, 20)
                if cut % 10 == 0:
                    print(f"{cut} cuts, {len(acknowledged)} acknowledged, {len(counts)} landed", flush=True)
        game.run("land")
        assert_promise(game.marks(), clients.acknowledged, clients.sent, "after the last landing")
        assert_landed(game, clients.acknowledged, clients.sent)


def live_until_cut(game: Game, disk: disks.Disk, chance: random.Random, longest: float) -> None:
    """Run server and lander, cut the power at a random moment or landing step, and mount the disk again."""
    step = {"signal_at_step": [chance.randrange(1, 1500), signal.SIGSTOP]} if chance.random() < 0.5 else {}
    running = [game.serve(chance.choice(["gunicorn", "flask"])), game.land(chance.choice(["land", "up"]), **step)]
    wait_for_life(running[1], chance.uniform(0.05, longest))
    for process in running:
        process.freeze()  # no power, no answer; but Linux lets a running fsync succeed during the cut
    disk.cut_power(chance.choice([disks.DROP_JOURNAL, disks.DROP_JOURNAL, disks.FLUSH_JOURNAL]))
    for process in running:
        process.kill()
    disk.unmount()
    disk.mount()


def wait_for_life(lander: Process, seconds: float) -> None:
    """Return after *seconds*, or as soon as the lander has frozen at its step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not lander.frozen():
        time.sleep(0.005)  # the cut comes at a random moment
