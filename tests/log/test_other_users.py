"""A root command beside the game's user: what it creates belongs to the game, and a file of root's stops no event."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.durable import FileLock, create_file, make_folder, open_sqlite, write_file
from questlog.errors import LogUnavailable, NotPermitted
from questlog.log import START
from questlog.log.sqlite import SqliteLog
from support.cli_project import Project
from support.users import GAME, as_game, as_root, folder_of_game, give

pytestmark = as_root


@pytest.fixture
def data() -> Iterator[Path]:
    with folder_of_game() as folder:
        yield folder


def append(folder: Path, *records: bytes) -> None:
    log = SqliteLog(folder / "log", min_free_bytes=0, min_free_files=0)
    log.append(records)
    log.close()


def game_appends(folder: Path, record: bytes) -> str:
    def work() -> str:
        append(folder, record)
        return "accepted"

    return as_game(work)


def game_reads(folder: Path) -> str:
    def work() -> str:
        try:
            batch = SqliteLog(folder / "log").read(START, 1000)
        except LogUnavailable as error:
            return f"{error} | {error.hint}"
        return " ".join(sorted(entry.value.decode() for entry in batch.entries))

    return as_game(work)


def owners(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_uid for path in sorted(folder.rglob("*"))}


def test_what_root_creates_belongs_to_the_owner_of_the_folder(data: Path) -> None:
    make_folder(data / "a" / "b")
    write_file(data / "a" / "state.json", "{}")
    open_sqlite(data / "a" / "state.db").close()
    lock = FileLock(data / "a" / "b" / "x.lock")
    assert lock.take()
    lock.release()
    append(data, b"1")
    assert len(owners(data)) > 7 and set(owners(data).values()) == {GAME}
    assert {path.lstat().st_gid for path in data.rglob("*")} == {GAME}


def test_root_gives_away_no_file_that_it_did_not_create(data: Path, tmp_path: Path) -> None:
    """The game's user could have put a link to /etc/shadow in place of the file."""
    (tmp_path / "secret").write_text("root's")
    (data / "x.lock").symlink_to(tmp_path / "secret")
    os.close(create_file(data / "x.lock"))
    assert FileLock(data / "x.lock").take()
    assert (tmp_path / "secret").stat().st_uid == 0


def test_a_file_that_root_replaces_keeps_its_owner(data: Path) -> None:
    (data / "plan.toml").write_text("old")
    os.chown(data / "plan.toml", 1234, 1235)
    write_file(data / "plan.toml", "new")
    assert ((data / "plan.toml").stat().st_uid, (data / "plan.toml").stat().st_gid) == (1234, 1235)


def test_the_game_appends_after_root_did(data: Path) -> None:
    append(data, b"1")
    assert game_appends(data, b"2") == "accepted"
    append(data, b"3")
    assert game_reads(data) == "1 2 3"
    assert set(owners(data).values()) == {GAME}


@pytest.mark.parametrize("pattern", ["*.lock", "*.db", "[0-9]*"])
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_partition_of_root_refuses_no_event(data: Path, pattern: str, mode: int) -> None:
    """Up to 0.1.0, `sudo questlog import` left such files."""
    append(data, b"1")
    assert give(data, pattern, 0, mode)
    assert game_appends(data, b"2") == "accepted"
    assert game_appends(data, b"3") == "accepted"
    append(data, b"4")
    give(data, "*.db*", GAME)  # what `chown -R` does, as the error says
    assert game_reads(data) == "1 2 3 4"


def test_reading_a_file_of_root_names_the_file_its_owner_and_the_remedy(data: Path) -> None:
    append(data, b"1")
    (file,) = give(data, "*.db", 0, 0o600)
    answer = game_reads(data)
    assert f"{file} belongs to user root" in answer
    assert f"sudo chown -R {GAME}:{GAME} {data}/log" in answer


def test_a_lock_of_root_names_the_file_its_owner_and_the_remedy(data: Path) -> None:
    write_file(data / "lander.lock", "")
    give(data, "lander.lock", 0)

    def work() -> str:
        with pytest.raises(NotPermitted, match=r"lander\.lock belongs to user root") as refused:
            FileLock(data / "lander.lock").take()
        return refused.value.hint

    assert as_game(work) == f"sudo chown -R {GAME}:{GAME} {data}"


def test_a_log_folder_of_root_is_named_by_the_refusal(data: Path) -> None:
    append(data, b"1")
    give(data, "log", 0)

    def work() -> str:
        with pytest.raises(LogUnavailable, match=r"may not write to .*/log, which belongs to user root") as refused:
            append(data, b"2")
        return refused.value.hint

    assert as_game(work) == f"run questlog as that user, or: sudo chown -R {GAME} {data}/log"


def test_an_import_and_a_landing_by_root_leave_nothing_of_roots_and_doctor_names_older_files(data: Path) -> None:
    (data / "plan.toml").write_text("[events.hit.fields]\ndamage = 'int'\n")
    (data / "hits.jsonl").write_text('{"event_type": "hit", "damage": 1}\n')
    give(data, "*", GAME)
    project = Project(data)
    assert project.run("import", str(data / "hits.jsonl")).returncode == 0
    assert project.run("land").returncode == 0
    assert project.run("key", "create", "web").returncode == 0
    assert {name: owner for name, owner in owners(data).items() if owner != GAME} == {}

    pipeline = project.pipeline
    lock, *_ = give(data, "*.lock", 0)
    (finding,) = [each for each in pipeline.examine() if (each.check, each.verdict) == ("folder", "fault")]
    assert str(lock) in finding.text and "of user root" in finding.text
    assert finding.advice == f"sudo chown -R {GAME}:{GAME} {data}/.questlog"
