"""The forwarder's database: the spool's name, its forwarded and landed positions, and the error that blocks it.

`forward.db` lies beside the log, the name inside the log's folder: deleting either of them loses no event. At worst
some are sent again under the old name, and the lander drops them as repeats.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from questlog.durable import FileLock, create_sqlite, make_folder, open_sqlite, read_sqlite, write_file
from questlog.errors import LanderBusy, LogUnavailable, QuestlogError
from questlog.log import Position

STALE_SECONDS = 30.0
BUSY_SECONDS = 2.0
_DATABASE, _LOCK = "forward.db", "forward.lock"
_NAME = re.compile(r"([a-z0-9]{6}) (\d+)\n")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_TABLES = """
create table if not exists sent (partition integer primary key, next integer not null) strict;
create table if not exists marks (partition integer, next integer, kafka_partition integer, kafka_end integer,
  primary key (partition, next)) strict;
create table if not exists landed (partition integer primary key, next integer not null) strict;
create table if not exists trouble (one integer primary key check (one = 1), text text, hint text,
  since_ms integer) strict;
create table if not exists handover (one integer primary key check (one = 1), id text, target text,
  state text) strict;
"""


@dataclass(frozen=True, slots=True)
class ForwardError:
    """The error that keeps events from being forwarded, what to do about it, and since when (ms)."""

    text: str
    hint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How a spool stands: what is forwarded and landed per partition, whether a forwarder runs, what blocks it."""

    name: str = ""
    sent: Position = field(default_factory=dict)
    landed: Position = field(default_factory=dict)
    error: ForwardError | None = None
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """The promotion of this log's project to *target*; `promote/handover.py` has its steps.

    `copying`: the tables are being copied; `sealing`: the target may already claim to hold them; `sealed`: it does.
    """

    id: str
    target: str
    state: str = "copying"

    @property
    def blocks_forwarding(self) -> bool:
        """Whether only the promotion itself may forward: what follows the copy may not come before it."""
        return self.state != "sealed"

    @property
    def keeps_log(self) -> bool:
        """Whether the log must be kept for the target from the forwarded position on."""
        return self.state != "copying"


class Spool:
    """The forwarder's checkpoint; one process holds it at a time. Use as a context manager.

    A promotion that is not sealed refuses every other process.
    """

    def __init__(self, data: Path, log_folder: Path, *, promoting: bool = False) -> None:
        self._data, self._log_folder, self._promoting = data, log_folder, promoting
        self.name = ""
        self._lock = FileLock(data / _LOCK)

    def __enter__(self) -> Spool:
        """Take the lock, or raise `LanderBusy`; give the log its name."""
        make_folder(self._data)
        busy = LanderBusy(f"another process forwards {self._log_folder}", hint="questlog status")
        self._lock.acquire(busy, BUSY_SECONDS)
        self.name = _name(self._log_folder)
        self._db = _open(self._data / _DATABASE)
        handover = self.handover
        if handover is not None and handover.blocks_forwarding and not self._promoting:
            self.__exit__(None, None, None)
            raise QuestlogError(
                f"the tables of this project are not yet all in {handover.target}",
                hint="questlog promote resumes the promotion; questlog promote --abandon cancels it",
            )
        self.heartbeat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        os.utime(self._data / _LOCK, (0, 0))
        self._lock.release()

    def heartbeat(self) -> None:
        """Show that this forwarder is alive."""
        os.utime(self._data / _LOCK)

    # -- positions ---------------------------------------------------------------------------------

    @property
    def sent(self) -> Position:
        """Next offset per partition that the brokers have acknowledged."""
        return dict(self._db.execute("select partition, next from sent"))

    def save_sent(self, sent: Position, offsets: Mapping[int, tuple[int, int]]) -> None:
        """Record that partitions are forwarded up to *sent*, and where in Kafka (partition, end) that is."""
        with self._db:
            self._db.executemany("insert or replace into sent values (?, ?)", list(sent.items()))
            self._db.executemany(
                "insert or replace into marks values (?, ?, ?, ?)", [(p, sent[p], *offsets[p]) for p in offsets]
            )
            self._db.execute("delete from trouble")

    def save_landed(self, kafka: Position) -> Position:
        """Return the landed position of each partition, given the landed end of each *kafka* partition."""
        with self._db:
            for partition, following, kafka_partition, end in self._db.execute(
                "select partition, next, kafka_partition, kafka_end from marks order by partition, next"
            ).fetchall():
                if kafka.get(kafka_partition, 0) >= end:
                    self._db.execute("insert or replace into landed values (?, ?)", (partition, following))
                    self._db.execute("delete from marks where partition = ? and next <= ?", (partition, following))
        return dict(self._db.execute("select partition, next from landed"))

    # -- promotion -------------------------------------------------------------------------------

    @property
    def handover(self) -> Handover | None:
        """The promotion that was begun, if one was."""
        return _handover(self._db)

    @contextmanager
    def rewriting(self) -> Iterator[sqlite3.Connection]:
        """Give the promotion the database, for one transaction that changes the handover and the positions."""
        with self._db:
            yield self._db

    # -- what blocks it --------------------------------------------------------------------------

    def record_error(self, text: str, hint: str) -> bool:
        """Record what blocks forwarding; return whether it is another error than before."""
        before = self._db.execute("select text from trouble").fetchone()
        with self._db:
            self._db.execute(
                "insert into trouble values (1, ?, ?, ?)"
                " on conflict (one) do update set text = excluded.text, hint = excluded.hint",
                (text, hint, time.time_ns() // 1_000_000),
            )
        return before is None or before[0] != text

    def clear_error(self) -> bool:
        """Clear the recorded error; return whether there was one."""
        with self._db:
            return self._db.execute("delete from trouble").rowcount > 0


def read_forwarding(data: Path, log_folder: Path) -> Forwarding:
    """Return how the spool stands, without disturbing the forwarder."""
    with _reading(data) as db:
        if db is None:
            return Forwarding()
        sent = dict(db.execute("select partition, next from sent"))
        landed = dict(db.execute("select partition, next from landed"))
        row = db.execute("select text, hint, since_ms from trouble").fetchone()
    alive = abs(time.time() - (data / _LOCK).stat().st_mtime) < STALE_SECONDS
    name = _read_name(log_folder)
    return Forwarding(name[0] if name else "", sent, landed, ForwardError(*row) if row else None, alive)


def keep_from(data: Path) -> Position | None:
    """Return the position from which the log must be kept for the cluster that the project is promoted to."""
    with _reading(data) as db:
        handover = None if db is None else _handover(db)
        if db is None or handover is None or not handover.keeps_log:
            return None
        return dict(db.execute("select partition, next from sent"))


def read_handover(data: Path) -> Handover | None:
    """Return the promotion that was begun, without disturbing the process that runs it."""
    with _reading(data) as db:
        return None if db is None else _handover(db)


def _handover(db: sqlite3.Connection) -> Handover | None:
    row = db.execute("select id, target, state from handover").fetchone()
    return None if row is None else Handover(*row)


def _open(path: Path) -> sqlite3.Connection:
    """Open the database to write, with the lock held; create it if it does not exist."""
    try:
        if not path.exists():
            create_sqlite(path, _TABLES)
        return open_sqlite(path, isolation_level="DEFERRED")
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path}: {error}", hint="questlog doctor", retry_after=1) from error


@contextmanager
def _reading(data: Path) -> Iterator[sqlite3.Connection | None]:
    """Yield the database to read, or None if no forwarder and no promotion has ever run."""
    path = data / _DATABASE
    if not path.exists():
        yield None
        return
    try:
        db = read_sqlite(path)
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path}: {error}", hint="questlog doctor", retry_after=1) from error
    with closing(db):
        yield db


def _read_name(folder: Path) -> tuple[str, int] | None:
    try:
        match = _NAME.fullmatch((folder / "spool").read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return (match[1], int(match[2])) if match else None


def _name(folder: Path) -> str:
    """Return the spool's name; a copy of the folder gets a new one.

    Two logs with one name would use the same sequence numbers for different events, and the lander would drop the
    later ones as repeats.
    """
    make_folder(folder)
    inode = folder.stat().st_ino
    stored = _read_name(folder)
    if stored is not None and stored[1] == inode:
        return stored[0]
    name = "".join(secrets.choice(_LETTERS) for _ in range(6))
    # a name lost in a power cut would send everything again under a new one
    write_file(folder / "spool", f"{name} {inode}\n")
    return name


def forwarded(data: Path) -> Position:
    """Return how far the log was forwarded, for a writer whose files are gone."""
    try:
        return read_forwarding(data, data).sent
    except (QuestlogError, OSError):
        return {}
