"""Wherever a lander dies, the next one produces the same tables and the same ledger."""

import os
import random
from pathlib import Path

import pytest

from support.crashing_lander import (
    DIED,
    copy,
    facts,
    iceberg_agrees,
    in_process,
    land,
    land_and_die,
    make_project,
    records,
)

DRILL = int(os.environ.get("QUESTLOG_DRILL", "0"))
POINTS = 24
"""Crash points tried by default, spread evenly; QUESTLOG_DRILL tries every one."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = records(40, seed=7)
    groups = [made[i : i + 5] for i in range(0, 40, 5)]
    return make_project(tmp_path_factory.mktemp("crash") / "game", groups)


def test_a_crash_at_any_point_changes_no_table_and_no_count(project: Path, tmp_path: Path) -> None:
    """The lander dies before and after each fsync, each catalog commit and each deletion."""
    seed = random.randrange(1 << 30) if not DRILL else 1
    print(f"seed {seed}")
    in_process(land, copy(project, tmp_path / "whole"))
    expected = facts(tmp_path / "whole")
    assert sum(n for *_, n in expected["ledger"]) == 40
    total = count_effects(project, tmp_path)
    points = [(p, after) for p in range(1, total + 1) for after in (False, True)]
    chosen = points if DRILL else random.Random(seed).sample(points, min(POINTS, len(points)))
    for number, (point, after) in enumerate(chosen):
        folder = copy(project, tmp_path / f"run{number}")
        in_process(land_and_die, str(folder), point, after, expect=(DIED, 0))
        in_process(land, folder)
        actual = facts(folder)
        assert actual == expected, f"seed {seed}: died {'after' if after else 'before'} effect {point} of {total}"
        iceberg_agrees(folder)


def count_effects(project: Path, tmp_path: Path) -> int:
    """Return how many effects a complete landing has: one less than the first point at which the lander survives."""
    low, high = 1, 2
    folders = iter(range(1000))

    def dies(point: int) -> bool:
        folder = copy(project, tmp_path / f"count{next(folders)}")
        return in_process(land_and_die, str(folder), point, False, expect=(DIED, 0)) == DIED

    while dies(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if dies(middle) else (low, middle)
    assert low > 40
    return low


def test_repeated_crashes_still_land_everything_once(project: Path, tmp_path: Path) -> None:
    """A lander that dies repeatedly, a little later each time, completes in the end."""
    in_process(land, copy(project, tmp_path / "whole"))
    folder = copy(project, tmp_path / "often")
    for attempt in range(12):
        in_process(land_and_die, str(folder), 5 + attempt * 3, attempt % 2 == 0, expect=(DIED, 0))
    in_process(land, folder)
    assert facts(folder) == facts(tmp_path / "whole")
    iceberg_agrees(folder)
