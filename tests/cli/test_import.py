"""`questlog import` imports every line once, whatever interrupts it."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from support.cli_project import Project
from support.waiting import until

LINES = "".join(f'{{"event_type": "hit", "damage": {n}}}\n' for n in range(1000))


def damages(project: Project) -> list[int]:
    return [damage for (damage,) in project.pipeline.sql("select damage from hit order by 1").rows()]


@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd", "stdin", "gzip on stdin"])
def test_every_line_becomes_a_row(project: Project, kind: str) -> None:
    data = LINES.encode()
    if "gzip" in kind:
        data = gzip.compress(data[:5000]) + gzip.compress(data[5000:])
    elif kind == "zstd":
        data = zstandard.compress(data[:5000]) + zstandard.compress(data[5000:])
    file = project.folder / "events"
    file.write_bytes(data)
    if "stdin" in kind:
        with file.open("rb") as stdin:
            ran = project.run("import", "-", stdin=stdin)
    else:
        ran = project.run("import", str(file))
    assert ran.returncode == 0, ran.stderr
    assert "1,000 events" in ran.stdout and "landed hit 1,000" in ran.stdout
    assert damages(project) == list(range(1000))


def test_a_file_is_imported_again_only_with_again(project: Project) -> None:
    file = project.folder / "events.jsonl"
    file.write_text(LINES)
    project.run("import", str(file))
    again = project.run("import", str(file))
    assert (again.returncode, "nothing new; 1,000 events were imported before" in again.stdout) == (0, True)
    file.write_text(LINES + '{"event_type": "hit", "damage": 1000}\n')
    grown = project.run("import", "--json", str(file))
    assert json.loads(grown.stdout)["files"][0]["events"] == 1
    assert damages(project) == list(range(1001))
    project.run("import", "--again", str(file))
    assert len(damages(project)) == 2002


def test_a_changed_file_is_refused(project: Project) -> None:
    file = project.folder / "events.jsonl"
    file.write_text(LINES)
    project.run("import", str(file))
    file.write_text("\n" + LINES)
    ran = project.run("import", str(file))
    assert (ran.returncode, "has changed" in ran.stderr, "--again" in ran.stderr) == (1, True, True)


def test_bad_lines_are_quarantined_and_blank_lines_skipped(project: Project) -> None:
    file = project.folder / "events.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf{"event_type": "hit"}\r\n\r\n  \n{"event_type": "hit", "damage": "x"}\n'
        b'\xff\xfe\n{"event_type": "hit"}'
    )
    ran = project.run("import", str(file))
    assert ran.returncode == 0, ran.stderr
    assert len(damages(project)) == 2
    reasons = project.pipeline.sql("select reason from quarantine order by 1").rows()
    assert reasons == [("not_json",), ("wrong_type",)]


def test_a_truncated_file_keeps_the_events_before_the_break(project: Project) -> None:
    file = project.folder / "events.gz"
    whole = gzip.compress(LINES.encode(), 0)
    file.write_bytes(whole[: len(whole) // 2])
    ran = project.run("import", str(file))
    assert (ran.returncode, "is truncated" in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)
    assert len(damages(project)) > 300
    file.write_bytes(whole)
    assert project.run("import", str(file)).returncode == 0
    assert damages(project) == list(range(1000))


def test_events_keep_their_own_ids(project: Project) -> None:
    file = project.folder / "events.jsonl"
    file.write_text('{"event_type": "hit", "event_id": "mine"}\n' * 2 + '{"event_type": "hit"}\n')
    project.run("import", str(file))
    ids = [i for (i,) in project.pipeline.sql("select event_id from hit order by 1 desc").rows()]
    assert ids[0] == "mine" and len(ids) == 2 and ids[1].startswith("import-")


def test_kills_at_random_moments_duplicate_and_lose_no_event(project: Project) -> None:
    """Batches of ten lines give many moments to kill at; a running lander lands some of them."""
    chance = random.Random(7)
    file = project.folder / "events.jsonl"
    file.write_text(LINES)
    program = (
        "import sys, questlog.importer as i; i.BATCH_LINES = 10; from questlog.cli import main;"
        "sys.argv = ['questlog', *sys.argv[1:]]; main()"
    )
    argv = [sys.executable, "-c", program, "-C", str(project.folder), "import", "--no-land", str(file)]
    notes, kills = project.folder / ".questlog" / "imports", 0
    for _ in range(30):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = _events(notes)
        until(lambda p=process, b=before: p.poll() is not None or _events(notes) != b, "it imports", every=0.001)
        time.sleep(chance.uniform(0.0, 0.08))  # a random moment, at any step of a batch
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
        if kills % 3 == 0:
            project.run("land")
    assert kills >= 3
    assert project.run("import", str(file)).returncode == 0
    assert damages(project) == list(range(1000))


def _events(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*.json")) if folder.exists() else ""


def test_a_batch_in_doubt_is_checked_in_the_log(project: Project) -> None:
    """Logged but not recorded: the state goes back to before the last batch, as after a power cut."""
    file = project.folder / "events.jsonl"
    file.write_text("".join(LINES.splitlines(True)[:600]))
    assert project.run("import", str(file)).returncode == 0
    (note,) = (project.folder / ".questlog" / "imports").glob("*.json")
    state = json.loads(note.read_text())
    note.write_text(json.dumps({**state, "lines": 0, "events": 0, "digest": "", "finished": False}))
    file.write_text(LINES)
    assert project.run("import", str(file)).returncode == 0
    assert damages(project) == list(range(1000))


def test_two_imports_at_once_are_refused(project: Project) -> None:
    read, write = os.pipe()
    argv = ["import", "--name", "feed", "-"]
    first = subprocess.Popen([sys.executable, "-m", "questlog", "-C", str(project.folder), *argv], stdin=read)
    os.close(read)
    os.write(write, LINES[:500].encode())
    lock = project.folder / ".questlog" / "imports"
    until(lambda: list(lock.glob("*.json")), "the first import begins")
    ran = project.run(*argv, input=LINES)
    assert (ran.returncode, "by another process" in ran.stderr) == (1, True)
    os.write(write, LINES[500:].encode())
    os.close(write)
    assert first.wait(60) == 0
    assert project.run(*argv, input=LINES).returncode == 0
    assert damages(project) == list(range(1000))


@pytest.mark.parametrize("path", ["missing.jsonl", "."])
def test_an_unreadable_file_is_a_plain_error(project: Project, path: str) -> None:
    ran = project.run("import", str(project.folder / path))
    assert (ran.returncode, "cannot be read" in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)
