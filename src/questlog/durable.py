"""Files, locks and databases that survive a power cut: the only module that calls fsync, flock and sqlite3.connect."""

from __future__ import annotations

import errno
import io
import os
import shlex
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from questlog.errors import NotDurable, NotPermitted, QuestlogError

try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows, where only the client runs: ids reveal repeats
    fcntl = None  # type: ignore[assignment]

_LEVELS = {"off": 0, "full": 2}
_NEARLY_FULL = 1 << 20
_RETRY_SECONDS = 0.02

# -- files and folders -----------------------------------------------------------------------------


def sync_file(path: Path) -> None:
    """Make the bytes of *path* survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power cut: a new or renamed file's name alone can vanish."""
    if os.name != "nt":  # a folder cannot be opened there
        sync_file(folder)


def make_folder(folder: Path) -> None:
    """Create *folder* and its parents; each new name survives a power cut."""
    for each in create_folders(folder):
        sync_folder(each.parent)


def create_folders(folder: Path) -> list[Path]:
    """Create *folder* and its parents; return the new ones, lowest first, whose names are not synced yet."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if _is_root():
        for each in reversed(missing):
            owner = each.parent.stat()
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return missing


def create_file(path: str | Path, flags: int = os.O_RDWR, mode: int = 0o666) -> int:
    """Open *path* and create it if there is none; return the descriptor.

    What root creates gets the owner and group of its folder: otherwise one `sudo questlog import` would lock the game
    out of its own data. Only a file that was created here is given away, never one that a link may point to.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags | os.O_CREAT, mode)
    if _is_root():
        owner = os.stat(os.path.dirname(path) or ".")
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def _is_root() -> bool:
    return os.name != "nt" and os.geteuid() == 0


def denied(path: Path) -> NotPermitted:
    """Return the error for a file that may not be opened: it names the file, its owner and the command that helps."""
    me, folder = os.geteuid(), path.parent
    expected = folder.stat()
    if not os.access(folder, os.W_OK | os.X_OK):
        return NotPermitted(
            f"user {user_name(me)} may not write to {folder}, which belongs to user {user_name(expected.st_uid)}",
            hint=f"run questlog as that user, or: sudo chown -R {me} {shlex.quote(str(folder))}",
        )
    owner = path.lstat().st_uid
    return NotPermitted(
        f"{path} belongs to user {user_name(owner)}; user {user_name(me)} may not open it",
        hint=f"sudo chown -R {expected.st_uid}:{expected.st_gid} {shlex.quote(str(folder))}",
    )


def user_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none."""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError):
        return str(uid)


class DurableFile(io.FileIO):
    """A file whose bytes survive a power cut once it is closed. Its name needs `sync_folder`."""

    def __init__(self, path: Path, mode: str) -> None:
        super().__init__(path, mode, opener=create_file)

    def close(self) -> None:
        """Flush to the disk and close."""
        if not self.closed:
            try:
                os.fsync(self.fileno())
            finally:
                super().close()


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces *path* when the block ends: readers see the old file or the whole new one.

    The replacement survives a power cut and keeps the mode of the old file, and its owner if root replaces it; after an
    error the old file stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(draft, "wb", opener=create_file) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            old = path.stat()
            if _is_root():
                os.chown(draft, old.st_uid, old.st_gid, follow_symlinks=False)
            draft.chmod(stat.S_IMODE(old.st_mode))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: str | bytes) -> None:
    """Write the whole of *path*, or leave it as it was; what is written survives a power cut."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Return whether *error* means that the disk or the quota under *folder* is used up."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return True
    if not isinstance(error, sqlite3.Error | OSError):
        return False
    try:
        disk = os.statvfs(folder)  # SQLite reports some full disks as I/O errors
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _NEARLY_FULL or bool(disk.f_files and disk.f_favail == 0)


# -- locks -----------------------------------------------------------------------------------------


class FileLock:
    """An exclusive lock between processes. The operating system releases it when its holder dies.

    It is released by closing the file, never by unlocking: a forked child closes only its own copy.
    A lock file that belongs to another user and may not be opened raises `NotPermitted`.
    """

    def __init__(self, path: Path, *, mode: int = 0o644) -> None:
        self.path, self._mode = path, mode
        self._file: int | None = None

    def take(self, wait_seconds: float | None = 0.0) -> bool:
        """Return whether the lock is ours now, after waiting up to *wait_seconds*; None waits for as long as it takes.

        A file that was deleted after it was opened is not locked: another process would lock a new one.
        """
        deadline = None if wait_seconds is None else time.monotonic() + wait_seconds
        while not self._try():
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_RETRY_SECONDS)
        return True

    def _try(self) -> bool:
        if fcntl is None:  # pragma: no cover
            return True
        try:
            fcntl.flock(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if self.is_current():
            return True
        self.release()
        return False

    def _open(self) -> int:
        if self._file is None:
            try:
                self._file = create_file(self.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0), self._mode)
            except PermissionError as error:
                raise denied(self.path) from error
        return self._file

    def is_current(self) -> bool:
        """Return whether the file at the path is still the one that is open here."""
        try:
            return self._file is not None and os.path.samestat(self.path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def acquire(self, busy: QuestlogError, wait_seconds: float | None = 0.0) -> FileLock:
        """Take the lock and return it; raise *busy* if another process keeps it."""
        if not self.take(wait_seconds):
            self.release()
            raise busy
        return self

    @contextmanager
    def held(self, busy: QuestlogError, wait_seconds: float | None = 0.0) -> Iterator[None]:
        """Hold the lock for a block; raise *busy* if another process keeps it."""
        self.acquire(busy, wait_seconds)
        try:
            yield
        finally:
            self.release()

    def touch(self) -> None:
        """Set the file's time to now, whether or not the lock is held: a heartbeat for others to read."""
        os.utime(self._open())

    def silent_seconds(self) -> float:
        """Return how long ago the file was last touched."""
        return abs(time.time() - os.fstat(self._open()).st_mtime)

    def release(self) -> None:
        """Release the lock if it is held, and close the file."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def is_locked(path: Path) -> bool:
    """Return whether a process on this machine holds the lock at *path*; a missing file is not created."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        return not lock.take()
    finally:
        lock.release()


# -- SQLite ----------------------------------------------------------------------------------------


def open_sqlite(
    path: Path,
    *,
    synchronous: Literal["full", "off"] = "full",
    wait_seconds: float = 10.0,
    mode: int | None = None,
    isolation_level: Literal["DEFERRED"] | None = None,
    setup: str = "",
) -> sqlite3.Connection:
    """Open a database for writing, and create it if there is none; commits survive power cuts.

    WAL, the level of *synchronous* and a full fsync are set and read back: builds and file systems differ in what
    they obey. Raises `NotDurable` if they do not obey, `sqlite3.Error` or `OSError` if it cannot be opened.
    *setup* is a pragma that only a new database obeys. *mode* is the mode of a new file.
    """
    new = not path.exists() or path.stat().st_size == 0
    if new:
        make_folder(path.parent)
    if new or mode is not None:  # SQLite would create a file that others may read, and that belongs to root
        os.close(create_file(path, mode=0o644 if mode is None else mode))
    connection = sqlite3.connect(path, timeout=wait_seconds, isolation_level=isolation_level, check_same_thread=False)
    try:
        _set_wal(connection, setup, wait_seconds)
        connection.execute(f"pragma synchronous = {synchronous}")
        connection.execute("pragma fullfsync = on")
        _read_back(connection, path, synchronous)
        if new:
            sync_folder(path.parent)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_wal(connection: sqlite3.Connection, setup: str, wait_seconds: float) -> None:
    """Switch to WAL; SQLite itself does not wait when two processes switch one new file at the same time."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            if setup:
                connection.execute(setup)
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _read_back(connection: sqlite3.Connection, path: Path, synchronous: str) -> None:
    obeyed = tuple(connection.execute(f"pragma {name}").fetchone()[0] for name in ("journal_mode", "synchronous"))
    if obeyed != ("wal", _LEVELS[synchronous]):
        raise NotDurable(
            f"{path} opened with journal_mode={obeyed[0]}, synchronous={obeyed[1]};"
            f" wal and {_LEVELS[synchronous]} are needed",
            hint="put the file on a local file system",
        )


def create_sqlite(path: Path, script: str) -> None:
    """Create a database with what *script* makes. It appears under its name whole and on the disk.

    Two processes that initialize one file under its own name fail with SQLITE_BUSY.
    """
    draft = path.with_name(f"{path.name}.new")
    remove_sqlite(draft)
    for kind in ("wal", "shm"):  # a write-ahead log without its database would be replayed into the new one
        path.with_name(f"{path.name}-{kind}").unlink(missing_ok=True)
    os.close(create_file(draft, mode=0o644))
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.execute("pragma synchronous = off")  # the whole file is synced below
        connection.executescript(script)
        connection.execute("pragma journal_mode = wal")
    sync_file(draft)
    os.rename(draft, path)
    sync_folder(path.parent)


def read_sqlite(path: Path, *, wait_seconds: float = 10.0) -> sqlite3.Connection:
    """Open an existing database for reading only; such a connection never moves or removes what a writer left."""
    if not path.exists():
        raise FileNotFoundError(path)
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False)


def remove_sqlite(path: Path) -> None:
    """Delete a database; the main file goes first, because without its write-ahead log it would look damaged."""
    for kind in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + kind).unlink(missing_ok=True)
