"""`up`, `land`, `status`, `tail`, `doctor` and `completion` as processes, stopped and killed by real signals."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.cli_project import Project
from support.waiting import until

HIT = '{"event_type": "hit", "damage": 1}'


def status(project: Project) -> dict[str, Any]:
    ran = project.run("status", "--json")
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def landed(project: Project) -> int:
    catalog = project.pipeline.project.catalog
    if not catalog.exists():
        return 0
    with closing(sqlite3.connect(catalog)) as connection:
        try:
            return int(connection.execute("select coalesce(sum(rows), 0) from questlog_tables").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_up_lands_new_events_until_ctrl_c(project: Project) -> None:
    up = project.start("up")
    project.send(HIT, HIT)
    until(lambda: landed(project) == 2)
    project.send(HIT)
    os.killpg(up.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    assert up.wait(60) == 0
    assert landed(project) == 3, "events logged before Ctrl-C are landed"
    assert "Traceback" not in project.error_output()
    assert not [pid for pid in children(up.pid) if is_alive(pid)]


def test_up_restarts_a_killed_lander(project: Project) -> None:
    up = project.start("up")
    for count in range(1, 4):
        project.send(HIT)
        until(lambda count=count: landed(project) == count)
        (lander,) = children(up.pid)
        os.kill(lander, signal.SIGKILL)
        until(lambda old=lander: [pid for pid in children(up.pid) if pid != old])
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0
    assert project.error_output().count("was killed by SIGKILL") == 3


@pytest.mark.parametrize("at", ["its start", "work"])
def test_a_lander_does_not_outlive_its_supervisor(project: Project, at: str) -> None:
    up = project.start("up")
    (lander,) = until(lambda: children(up.pid))
    project.send(HIT)
    if at == "work":
        until(lambda: landed(project) == 1)
    up.kill()
    up.wait()
    until(lambda: not is_alive(lander))
    again = project.start("up")
    project.send(HIT)
    until(lambda: landed(project) == 2)
    again.terminate()
    assert again.wait(60) == 0


PARTS = """
import os, sys
from pathlib import Path
from questlog.supervise import Supervisor, forked
from questlog.messages import start_logging
from questlog.errors import LanderReplaced

def replaced(folder, stop, ready):
    ready()
    raise LanderReplaced("another lander took over these tables")

def lasting(folder, stop, ready):
    ready()
    (folder / "begun").write_text((folder / "begun").read_text() + "x" if (folder / "begun").exists() else "x")
    stop.wait(60)

start_logging(False)
parts = {"lander": replaced, "forwarder": lasting}
sys.exit(Supervisor(forked(Path(sys.argv[1]), {name: parts[name] for name in sys.argv[2:]})).run())
"""


def test_a_replaced_lander_is_not_restarted_and_the_other_parts_keep_running(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARTS, str(tmp_path)]
    alone = subprocess.run([*words, "lander"], capture_output=True, text=True, timeout=180)
    assert (alone.returncode, alone.stderr.count("not restarted")) == (4, 1)
    both = subprocess.Popen([*words, "lander", "forwarder"], stderr=subprocess.PIPE, text=True)
    assert both.stderr is not None
    until(lambda: "not restarted" in both.stderr.readline())
    until((tmp_path / "begun").exists)
    both.terminate()
    assert (both.wait(60), (tmp_path / "begun").read_text()) == (4, "x")


def test_a_second_up_is_refused_and_names_the_running_process(project: Project) -> None:
    first = project.start("up")
    project.send(HIT)
    until(lambda: landed(project) == 1)
    second = project.run("up")
    assert second.returncode == 3
    assert f"process {children(first.pid)[0]} " in second.stderr and "Traceback" not in second.stderr
    assert project.run("land").returncode == 3


def test_up_refuses_a_plan_that_the_tables_cannot_follow(project: Project) -> None:
    project.send(HIT)
    assert project.run("land").returncode == 0
    plan = project.folder / "plan.toml"
    plan.write_text(plan.read_text().replace('"int"', '"date"').replace(", min = 0", ""))
    refused = project.run("up")
    assert refused.returncode == 2
    assert "column damage of table hit holds int" in refused.stderr and "Traceback" not in refused.stderr


def test_status_counts_every_event_exactly_once(project: Project) -> None:
    project.send(HIT, '{"event_type": "hit", "damage": -1}', '{"event_type": "miss"}', "{", HIT)
    project.send(*['{"event_type": "hit", "event_id": "same"}'] * 3)
    assert project.run("land").returncode == 0
    project.send(HIT, '{"event_type": "hit", "damage": "x"}')
    report = status(project)
    assert report["balanced"]
    assert report["ledger"] == {
        "accepted": 10, "landed": 3, "quarantined": 3, "duplicate": 2, "damaged": 0, "tail": 2,
    }  # fmt: skip
    hit, quarantine = report["tables"]
    assert (hit["table"], hit["landed"], hit["tail"], hit["quarantined"], hit["duplicate"]) == ("hit", 3, 1, 1, 2)
    assert (hit["files"], hit["lag_seconds"] > 0) == (1, True)
    assert (quarantine["landed"], quarantine["tail"], quarantine["quarantined"]) == (3, 1, 2)
    assert report["quarantine"] == {"not_json": 1, "out_of_range": 1, "unknown_event_type": 1}
    text = project.run("status").stdout
    assert "balances: accepted 10 = landed 3 + quarantined 3 + duplicate 2 + damaged 0 + tail 2" in text


def test_status_reports_a_ledger_that_does_not_balance(project: Project) -> None:
    project.send(HIT, HIT)
    assert project.run("land").returncode == 0
    with closing(sqlite3.connect(project.pipeline.project.catalog)) as connection:
        connection.execute("update questlog_ledger set records = records - 1")
        connection.commit()
    ran = project.run("status")
    assert (ran.returncode, "DOES NOT BALANCE" in ran.stdout) == (1, True)
    assert project.run("doctor").returncode == 1


def test_tail_follows_events_and_marks_bad_ones(project: Project) -> None:
    project.send(HIT, '{"event_type": "hit", "damage": "a lot"}')
    tail = project.start("tail", "--json")
    assert tail.stdout is not None
    lines = [json.loads(tail.stdout.readline()) for _ in range(2)]
    assert [(line["event_type"], line["reason"], line["field"]) for line in lines] == [
        ("hit", None, None),
        ("hit", "wrong_type", "damage"),
    ]
    project.send('{"event_type": "mis\\u001b[31ms"}')
    line = json.loads(tail.stdout.readline())
    assert (line["reason"], line["event_type"]) == ("unknown_event_type", "mis\x1b[31ms")
    tail.send_signal(signal.SIGINT)
    assert tail.wait(60) == 130
    assert "Traceback" not in project.error_output()


def test_tail_prints_only_the_requested_events(project: Project) -> None:
    project.send(*[f'{{"event_type": "hit", "damage": {n}}}' for n in range(-2, 20)])
    project.send('{"event_type": "mis\x1b[31ms"}')
    shown = project.run("tail", "--no-follow", "-n", "3").stdout
    assert [f'"damage": {n}}}' in shown for n in (17, 18, 19)] == [False, True, True]
    assert "\x1b" not in shown and "^ bad: not_json" in shown
    bad = project.run("tail", "--no-follow", "-n", "100", "--bad", "--event", "hit").stdout
    assert bad.count("out_of_range damage") == 2 and bad.count("^ bad") == 2


def test_doctor_passes_a_healthy_project_and_changes_nothing(project: Project) -> None:
    project.send(HIT)
    before = sorted(project.folder.rglob("*"))
    ran = project.run("doctor", "--json")
    findings = json.loads(ran.stdout)
    assert ran.returncode == 0, findings
    assert {f["check"] for f in findings} == {
        "plan", "versions", "folder", "disk", "fsync", "log", "catalog", "ledger", "lander",
        "java", "java (trino)", "maven",
    }  # fmt: skip
    assert [
        path for path in sorted(project.folder.rglob("*")) if "-shm" not in path.name and "-wal" not in path.name
    ] == [path for path in before if "-shm" not in path.name and "-wal" not in path.name]


def test_doctor_finds_a_lost_data_file_and_a_lost_log(project: Project) -> None:
    project.send(HIT)
    assert project.run("land").returncode == 0
    next(project.pipeline.project.warehouse.rglob("*.parquet")).unlink()
    ran = project.run("doctor")
    assert (ran.returncode, "1 data files are missing" in ran.stdout) == (1, True)
    shutil.rmtree(project.pipeline.project.log_folder)
    ran = project.run("doctor")
    assert (ran.returncode, "the log went backwards" in ran.stdout) == (1, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script(project: Project, shell: str) -> None:
    script = project.run("completion", shell).stdout
    assert "_QUESTLOG_COMPLETE" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True).returncode == 0


def test_completion_completes_commands(project: Project) -> None:
    asked = {"_QUESTLOG_COMPLETE": "bash_complete", "COMP_WORDS": "questlog sta", "COMP_CWORD": "1"}
    installed = Path(sys.executable).with_name("questlog")
    ran = subprocess.run([installed], env={**os.environ, **asked}, capture_output=True, text=True)
    assert "status" in ran.stdout


def test_without_a_project_the_error_has_a_hint(tmp_path: Path) -> None:
    above = [folder for folder in tmp_path.parents if (folder / "plan.toml").exists()]
    assert not above, "it needs a folder with no plan above it; set --basetemp"
    ran = Project(tmp_path).run("status")
    assert ran.returncode == 2
    assert "no plan.toml in" in ran.stderr and "questlog init" in ran.stderr and "Traceback" not in ran.stderr
