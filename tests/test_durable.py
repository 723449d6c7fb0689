"""What durable.py guarantees: whole files, locks that die with their process, databases that obey their settings."""

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from questlog import durable
from questlog.durable import (
    FileLock,
    create_sqlite,
    is_disk_full,
    is_locked,
    make_folder,
    open_sqlite,
    read_sqlite,
    remove_sqlite,
    replacing,
    write_file,
)
from questlog.errors import NotDurable, QuestlogError

BUSY = QuestlogError("busy")


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were fsynced, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def pragmas(connection: sqlite3.Connection) -> list[Any]:
    return [connection.execute(f"pragma {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "fullfsync")]


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(tmp_path: Path, synced: list[str]) -> None:
    write_file(tmp_path / "state.json", "new")
    draft, folder = synced
    assert Path(draft).parent == tmp_path and draft != str(tmp_path / "state.json")
    assert folder == str(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_fsync_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OSError, match="I/O error"):
        write_file(path, "new")
    assert path.read_text() == "old"


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o600)
    write_file(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)


def test_every_new_folder_is_synced_in_the_one_above_it(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path / "a"), str(tmp_path)]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (ValueError("full"), False),
    ],
)
def test_a_full_disk_and_a_full_quota_are_distinguished_from_other_errors(
    error: Exception, full: bool, tmp_path: Path
) -> None:
    assert is_disk_full(error, tmp_path) is full


def test_sqlites_own_error_for_a_full_disk_is_recognised(tmp_path: Path) -> None:
    with closing(open_sqlite(tmp_path / "small.db")) as connection:
        connection.execute("create table t (x)")
        connection.execute("pragma max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as raised:
            connection.execute("insert into t values (zeroblob(100000))")
    assert is_disk_full(raised.value, tmp_path)


# -- locks -----------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_until_it_is_released(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.take()
    assert not other.take()
    assert is_locked(tmp_path / "lock")
    one.release()
    assert other.take()
    other.release()
    assert not is_locked(tmp_path / "lock")


def test_a_waiting_process_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    one, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    one.take()
    threading.Timer(0.1, one.release).start()
    with other.held(BUSY, wait_seconds=60):
        assert not one.take()
    one.release()


def test_a_busy_lock_raises_the_callers_error_and_stays_with_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock").held(BUSY):
        with pytest.raises(QuestlogError, match="busy"), FileLock(tmp_path / "lock").held(BUSY):
            pass
        assert is_locked(tmp_path / "lock")


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from questlog.durable import FileLock; lock = FileLock(pathlib.Path(sys.argv[1]));"
        "print(lock.take(), flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"True\n"
    assert is_locked(tmp_path / "lock")
    child.kill()
    child.communicate()
    assert not is_locked(tmp_path / "lock")


def test_a_lock_file_that_was_deleted_is_not_a_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    assert lock.take() and lock.is_current()
    lock.path.unlink()
    assert not lock.is_current()
    lock.release()


def test_checking_a_lock_creates_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    assert list(tmp_path.iterdir()) == []


# -- databases -------------------------------------------------------------------------------------


def test_a_database_is_opened_with_settings_that_survive_power_cuts(tmp_path: Path, synced: list[str]) -> None:
    with closing(open_sqlite(tmp_path / "a" / "b.db", mode=0o600)) as connection:
        assert pragmas(connection) == ["wal", 2, 1]
    assert stat.S_IMODE((tmp_path / "a" / "b.db").stat().st_mode) == 0o600
    assert synced == [str(tmp_path), str(tmp_path / "a")]


class Disobedient(sqlite3.Connection):
    """SQLite as in some builds and on some file systems: a setting is accepted but has no effect."""

    ignored = ""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute("select 1" if sql.startswith(f"pragma {self.ignored} =") else sql, *parameters)


@pytest.mark.parametrize(
    ("ignored", "message"),
    [("journal_mode", "journal_mode=delete, synchronous=2"), ("synchronous", "journal_mode=wal, synchronous=1")],
)
def test_a_database_that_ignores_a_setting_is_refused_and_closed(
    ignored: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []

    def connect(*words: Any, **options: Any) -> sqlite3.Connection:
        made.append(real(*words, **options, factory=Disobedient))
        made[-1].set_trace_callback(None)
        sqlite3.Connection.execute(made[-1], "pragma synchronous = normal")  # not every build's default is full
        return made[-1]

    real = sqlite3.connect
    monkeypatch.setattr(Disobedient, "ignored", ignored)
    monkeypatch.setattr(durable.sqlite3, "connect", connect)
    with pytest.raises(NotDurable, match=message) as raised:
        open_sqlite(tmp_path / "x.db")
    assert "local file system" in raised.value.hint
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute("select 1")


def test_processes_that_open_one_new_database_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(path: Path) -> None:
        barrier.wait()
        try:
            open_sqlite(path, setup="pragma auto_vacuum = incremental").close()
        except BaseException as error:
            errors.append(error)

    for number in range(10):
        threads = [threading.Thread(target=work, args=(tmp_path / f"{number}.db",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_created_database_appears_whole_and_synced(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "x.db"
    Path(f"{path}-wal").write_text("the write-ahead log of a database that is gone")
    create_sqlite(path, "create table t (x); insert into t values (1);")
    assert synced[-2:] == [f"{path}.new", str(tmp_path)]
    assert [file.name for file in tmp_path.iterdir()] == ["x.db"]
    with closing(read_sqlite(path)) as connection:
        assert connection.execute("select x from t").fetchall() == [(1,)]
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("insert into t values (2)")


def test_a_reader_creates_no_database(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_sqlite(tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []


def test_a_removed_database_leaves_nothing_behind(tmp_path: Path) -> None:
    connection = open_sqlite(tmp_path / "x.db")
    connection.execute("create table t (x)")
    remove_sqlite(tmp_path / "x.db")
    assert list(tmp_path.iterdir()) == []
    connection.close()
