"""`questlog backfill` on the embedded profile: from quarantine into tables, and new tables from a log or files."""

from __future__ import annotations

import gzip
import json
import signal
from typing import Any

import pytest
from click.testing import CliRunner

from questlog.cli import cli
from questlog.errors import LakeUnavailable, LanderBusy
from questlog.lake.iceberg import IcebergTables
from questlog.record import encode_record
from support.cli_project import PLAN, Project
from support.waiting import until

GROWN = PLAN.replace('type = "int"', 'type = "long"') + '\n[events.late.fields]\nn = "int"\n'
HIT, LATE, BIG = '{"event_type": "hit", "damage": 3}', '{"event_type": "late", "n": 1}', (
    '{"event_type": "hit", "damage": 5000000000}'
)  # fmt: skip


def grow(project: Project) -> None:
    (project.folder / "plan.toml").write_text(GROWN)


def command(project: Project, *words: str) -> Any:
    """Run a command in this process and return its JSON."""
    ran = CliRunner().invoke(cli, ["-C", str(project.folder), *words, "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return json.loads(ran.stdout)


def backfill(project: Project, *words: str) -> Any:
    return command(project, "backfill", *words)


def status(project: Project) -> Any:
    return command(project, "status")


def rows(project: Project, statement: str) -> list[tuple[Any, ...]]:
    return project.pipeline.sql(statement).rows()


def test_events_that_fit_now_move_from_quarantine_and_the_ledger_balances(project: Project) -> None:
    project.send(HIT, LATE, BIG, "not json", LATE)
    command(project, "land")
    assert status(project)["quarantine"] == {"not_json": 1, "out_of_range": 1, "unknown_event_type": 2}
    before = rows(project, "select event_id, received_time from quarantine order by 1")
    grow(project)
    done = backfill(project)
    assert (done["records"], done["rows"], done["cleared"]) == (4, {"hit": 1, "late": 2}, 3)
    assert rows(project, "select reason from quarantine") == [("not_json",)]
    after = rows(
        project,
        "select event_id, received_time from late union all select event_id, received_time from hit where damage > 3"
        " union all select event_id, received_time from quarantine order by 1",
    )
    assert after == before
    report = status(project)
    assert report["ledger"] == {
        "accepted": 5, "landed": 4, "quarantined": 1, "duplicate": 0, "damaged": 0, "tail": 0,
    }  # fmt: skip
    assert report["quarantine"] == {"not_json": 1}
    again = backfill(project)
    assert (again["rows"], again["cleared"]) == ({}, 0)
    project.send(LATE)
    command(project, "land")
    assert rows(project, "select count(*) from late") == [(3,)]


def test_bounds_limit_the_backfill(project: Project) -> None:
    project.send(LATE, LATE, LATE, LATE)
    command(project, "land")
    grow(project)
    ((partition,),) = rows(project, "select distinct log_partition from quarantine")
    assert rows(project, "select log_offset from quarantine order by 1") == [(0,), (1,), (2,), (3,)]
    part = backfill(project, "--from", f"{partition}:1", "--to", f"{partition}:3")
    assert part["rows"] == {"late": 2}
    assert backfill(project, "--from", "2100-01-01")["rows"] == {}
    assert backfill(project, "--to", "2100-01-01T00:00")["rows"] == {"late": 2}
    ran = project.run("backfill", "--from", "yesterday")
    assert (ran.returncode, "is not a valid log position" in ran.stderr) == (1, True)


def test_a_backfill_beside_a_lander_names_the_lander(project: Project) -> None:
    project.send(LATE)
    with project.pipeline.lander() as lander:
        lander.drain()
        grow(project)
        with pytest.raises(LanderBusy, match="has been landing this project"):
            _run(project)
    assert backfill(project)["rows"] == {"late": 1}


def test_a_backfill_killed_before_its_commit_changes_nothing(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.send(LATE, HIT)
    command(project, "land")
    grow(project)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(IcebergTables, "_move", full)
        with pytest.raises(LakeUnavailable):
            _run(project)
    assert status(project)["ledger"]["quarantined"] == 1
    files = sorted(path.name for path in (project.folder / ".questlog/lake").rglob("*.parquet"))
    assert len(files) == 2
    assert backfill(project)["rows"] == {"late": 1}
    assert status(project)["balanced"]


def _run(project: Project) -> None:
    import threading

    from questlog.backfill.bounds import OPEN

    project.pipeline.backfill().run(OPEN, OPEN, threading.Event(), lambda *_: None)


def test_new_tables_from_the_log_are_their_own_project(project: Project) -> None:
    project.send(HIT, LATE, "not json")
    command(project, "land")
    grow(project)
    new = Project(project.folder / "new")
    done = backfill(project, "--into", str(new.folder))
    assert (done["records"], done["rows"]) == (3, {"hit": 1, "late": 1, "quarantine": 1})
    old = rows(project, "select event_id, received_time, damage from hit")
    assert rows(new, "select event_id, received_time, damage from hit") == old
    assert status(new)["ledger"]["accepted"] == 3
    project.send(HIT)
    assert backfill(project, "--into", str(new.folder))["rows"] == {"hit": 1}
    assert rows(new, "select count(*) from hit") == [(2,)]
    new.send(HIT)
    assert rows(new, "select count(*) from hit") == [(3,)]
    (project.folder / "plan.toml").write_text(GROWN + '[events.more.fields]\nn = "int"\n')
    ran = project.run("backfill", "--into", str(new.folder))
    assert (ran.returncode, "begun under another plan" in ran.stderr) == (1, True)
    ran = project.run("backfill", "--into", str(project.folder))
    assert (ran.returncode, "no backfill created it" in ran.stderr) == (1, True)


def test_new_tables_from_a_part_of_the_log(project: Project) -> None:
    project.send(*[f'{{"event_type": "hit", "damage": {n}}}' for n in range(10)])
    new = Project(project.folder / "new")
    (partition,) = project.pipeline.log.end()
    part = backfill(project, "--from", f"{partition}:3", "--to", f"{partition}:7", "--into", str(new.folder))
    assert part["records"] == 4
    assert rows(new, "select damage from hit order by 1") == [(3,), (4,), (5,), (6,)]


def dump(count: int) -> bytes:
    """Return a topic's records as kcat prints them."""
    records = [
        encode_record(b'{"event_type": "hit", "damage": %d}' % n, id=f"r{n}", received_ms=1_795_000_000_000 + n)
        for n in range(count)
    ]
    return b"".join(record + b"\n" for record in records)


def test_a_topic_dump_keeps_ids_and_times_and_is_never_duplicated(project: Project) -> None:
    file = project.folder / "dump.jsonl.gz"
    file.write_bytes(gzip.compress(dump(20) + dump(5)))
    new = Project(project.folder / "new")
    assert backfill(project, str(file), "--into", str(new.folder))["rows"] == {"hit": 20}
    assert rows(new, "select min(event_id), epoch_ms(min(received_time)) from hit") == [("r0", 1_795_000_000_000)]
    other = project.folder / "other.jsonl"
    other.write_bytes(dump(30))
    for source in (file, other, file):
        command(project, "import", "--again", str(source))
    assert rows(project, "select count(*), count(distinct event_id) from hit") == [(30, 30)]
    ran = project.run("backfill", str(file))
    assert (ran.returncode, "questlog import FILE" in ran.stderr) == (2, True)


def test_an_interrupted_backfill_resumes(project: Project) -> None:
    file, new = project.folder / "events.jsonl", Project(project.folder / "new")
    file.write_text("".join(f'{{"event_type": "hit", "damage": {n}}}\n' for n in range(60_000)))
    child = project.start("backfill", str(file), "--into", str(new.folder))
    begun = lambda: any('"lines": 0' not in p.read_text() for p in new.folder.rglob("imports/*.json"))  # noqa: E731
    until(begun, "it stores its progress", 100)
    child.send_signal(signal.SIGINT)
    assert child.wait(100) == 130
    assert "Traceback" not in project.error_output()
    backfill(project, str(file), "--into", str(new.folder))
    assert rows(new, "select count(*), count(distinct damage) from hit") == [(60_000, 60_000)]
