"""Tests of the fault tests: each detects the defect that it exists for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from questlog.lake.ledger import read_ledger
from questlog.pipeline import open_pipeline
from questlog.record import encode_record
from support import disks
from support.crashing_lander import (
    DIED,
    copy,
    facts,
    in_process,
    land,
    land_and_die,
    land_mutated,
    make_project,
    records,
)
from support.game_processes import FAST_LANDING, Clients, ForkServer, Game, faults
from support.mutations import MUTATIONS
from support.waiting import until

POINTS = 60


def test_a_power_cut_detects_a_log_that_never_syncs(fork_server: ForkServer, tmp_path: Path) -> None:
    if reason := disks.why_not(tmp_path / "trial"):
        pytest.skip(reason)
    with disks.Disk(tmp_path, 64) as disk:
        environment = {**FAST_LANDING, "QUESTLOG_DATA": f"{disk.path}/data", "QUESTLOG_MIN_FREE_MB": "8"}
        game = Game(fork_server, tmp_path / "game", environment=environment)
        server = game.serve("gunicorn", no_fsync=True)
        with Clients(game, seed=1) as clients:
            until(lambda: len(clients.acknowledged) > 50, "events are accepted")
            server.freeze()
            disk.cut_power()
            server.kill()
        disk.unmount()
        disk.mount()
        assert "lost" in faults(game.marks(), clients.acknowledged, clients.sent)


@pytest.mark.parametrize("mutant", ["no_skip", "position_apart"])
def test_a_crash_detects_rows_that_land_twice(tmp_path: Path, mutant: str) -> None:
    """Run the check of test_lander_crash_points at one crash point after another until it detects the defect."""
    made = records(16, seed=7)
    project = make_project(tmp_path / "game", [made[:8], made[8:]])
    in_process(land, copy(project, tmp_path / "whole"))
    expected = facts(tmp_path / "whole")
    in_process(land_mutated, str(copy(project, tmp_path / "undisturbed")), mutant)
    assert facts(tmp_path / "undisturbed") == expected, "without a crash the defect has no effect"
    for point in range(1, POINTS):
        folder = copy(project, tmp_path / f"run{point}")
        if in_process(land_and_die, str(folder), point, True, mutant, expect=(DIED, 0)) != DIED:
            break
        in_process(land_mutated, str(folder), mutant)
        try:
            if facts(folder) != expected:
                return
        except AssertionError:
            return
    raise AssertionError(f"{mutant} survived a crash at every point")


def test_the_ledger_detects_one_event_in_ten_thousand_that_did_not_land(tmp_path: Path) -> None:
    project = make_project(tmp_path / "game", [ten_thousand()])
    in_process(land_whole, str(copy(project, tmp_path / "sound")), "")
    in_process(land_whole, str(project), "drop_landed")
    assert imbalance(tmp_path / "sound") == 0
    assert imbalance(project) == 1


def test_the_final_check_detects_one_event_in_ten_thousand_that_was_not_logged(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text('[events.join_guild.fields]\nguild = "string"\n')
    in_process(append_ten_thousand, str(tmp_path))
    counts = Counter(i for (i,) in open_pipeline(tmp_path).sql("select event_id from join_guild").rows())
    sent = {f"e{n}" for n in range(10_000)}
    assert faults(counts, sent, sent) == {"lost": ["e9999"]}


def ten_thousand() -> list[bytes]:
    body = b'{"event_type": "join_guild", "guild": "wolves"}'
    return [encode_record(body, id=f"e{n}", received_ms=1_790_000_000_000) for n in range(10_000)]


def land_whole(folder: str, mutant: str) -> None:
    if mutant:
        MUTATIONS[mutant](10_000)
    with open_pipeline(folder).lander() as lander:
        lander.drain()


def append_ten_thousand(folder: str) -> None:
    MUTATIONS["drop_logged"](10_000)
    log = open_pipeline(folder).log
    for start in range(0, 10_000, 100):
        log.append(ten_thousand()[start : start + 100])


def imbalance(folder: Path) -> int:
    pipeline = open_pipeline(folder)
    return read_ledger(pipeline.project.catalog, pipeline.log.end()).imbalance
