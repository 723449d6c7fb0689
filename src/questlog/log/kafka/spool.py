"""What a spool remembers: its name, how far it is forwarded and landed, and what is in the way.

`forward.db` lies beside the log, the name inside the log's folder: whoever deletes one of them loses no
event by that, at worst some are sent again under the old name, and the lander knows them.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from questlog.durable import FileLock, create_sqlite, open_sqlite, read_sqlite, write_file
from questlog.errors import LanderBusy, LogUnavailable, QuestlogError
from questlog.log import Position

STALE_SECONDS = 30.0
BUSY_SECONDS = 2.0
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
class Trouble:
    """What keeps events from being forwarded, since when, and what to do."""

    text: str
    hint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How a spool stands: what is forwarded and landed per partition, who forwards, what is in the way."""

    name: str = ""
    sent: Position = field(default_factory=dict)
    landed: Position = field(default_factory=dict)
    trouble: Trouble | None = None
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Handover:
    """How far `questlog promote` is: which target this log's events are copied to, and whether all of them are there.

    `copying`: they are on their way; `sealing`: the target may say already that it holds them; `sealed`: it does.
    """

    id: str
    target: str
    state: str = "copying"


class Spool:
    """The forwarder's memory; one process holds it at a time. Use as a context.

    A hand-over that is not sealed refuses everybody but who does it: what comes after it may not come first.
    """

    def __init__(self, data: Path, log_folder: Path, *, handing_over: bool = False) -> None:
        self._data, self._log_folder, self._handing_over = data, log_folder, handing_over
        self.name = ""
        self._lock = FileLock(data / "forward.lock")

    def __enter__(self) -> Spool:
        """Take the lock, or raise `LanderBusy`; give the log its name."""
        self._data.mkdir(parents=True, exist_ok=True)
        busy = LanderBusy(f"another process forwards {self._log_folder}", hint="questlog status")
        self._lock.acquire(busy, BUSY_SECONDS)
        self.name = _name(self._log_folder)
        self._db = _open(self._data / "forward.db")
        handover = self.handover
        if handover is not None and handover.state != "sealed" and not self._handing_over:
            self.__exit__(None, None, None)
            raise QuestlogError(
                f"the tables of this project are not all in {handover.target} yet",
                hint="questlog promote goes on with it; questlog promote --abandon gives it up",
            )
        self.beat()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        os.utime(self._data / "forward.lock", (0, 0))
        self._lock.release()

    def beat(self) -> None:
        """Show a sign of life."""
        os.utime(self._data / "forward.lock")

    @property
    def sent(self) -> Position:
        """Up to where each partition is in Kafka, by the brokers' own word."""
        return dict(self._db.execute("select partition, next from sent"))

    def remember(self, sent: Position, places: Mapping[int, tuple[int, int]]) -> None:
        """Note that partitions are forwarded up to *sent*, and where in Kafka (partition, end) that is."""
        with self._db:
            self._db.executemany("insert or replace into sent values (?, ?)", list(sent.items()))
            self._db.executemany(
                "insert or replace into marks values (?, ?, ?, ?)", [(p, sent[p], *places[p]) for p in places]
            )
            self._db.execute("delete from trouble")

    def land(self, kafka: Position) -> Position:
        """Return up to where each partition is landed, given how far the tables hold each *kafka* partition."""
        with self._db:
            for partition, following, where, end in self._db.execute(
                "select partition, next, kafka_partition, kafka_end from marks order by partition, next"
            ).fetchall():
                if kafka.get(where, 0) >= end:
                    self._db.execute("insert or replace into landed values (?, ?)", (partition, following))
                    self._db.execute("delete from marks where partition = ? and next <= ?", (partition, following))
        return dict(self._db.execute("select partition, next from landed"))

    @property
    def handover(self) -> Handover | None:
        """The hand-over that was begun, if one was."""
        return _handover(self._db)

    def hand_over(self, handover: Handover, held: Position) -> None:
        """Begin a hand-over, or go on with it: the target gets *held* as tables, and by Kafka what follows."""
        with self._db:
            for table in ("sent", "landed", "marks"):
                self._db.execute(f"delete from {table}")
            for table in ("sent", "landed"):
                self._db.executemany(f"insert into {table} values (?, ?)", list(held.items()))
            self._db.execute("insert or replace into handover values (1, ?, ?, ?)", _row(handover))

    def seal(self, state: str, held: Position | None = None) -> None:
        """Note how far the hand-over is, and what the target is known to hold of each partition."""
        with self._db:
            self._db.execute("update handover set state = ?", (state,))
            for table in ("sent", "landed"):
                self._db.executemany(
                    f"insert into {table} values (?, ?)"
                    " on conflict (partition) do update set next = max(next, excluded.next)",
                    list((held or {}).items()),
                )

    def abandon(self) -> None:
        """Forget the hand-over: the log is the embedded profile's alone again."""
        with self._db:
            for table in ("sent", "landed", "marks", "handover"):
                self._db.execute(f"delete from {table}")

    def complain(self, text: str, hint: str) -> bool:
        """Remember what is in the way; return whether it is news."""
        known = self._db.execute("select text from trouble").fetchone()
        with self._db:
            self._db.execute(
                "insert into trouble values (1, ?, ?, ?)"
                " on conflict (one) do update set text = excluded.text, hint = excluded.hint",
                (text, hint, time.time_ns() // 1_000_000),
            )
        return known is None or known[0] != text

    def praise(self) -> bool:
        """Forget what was in the way; return whether there was something."""
        with self._db:
            return self._db.execute("delete from trouble").rowcount > 0


def read_forwarding(data: Path, log_folder: Path) -> Forwarding:
    """Return how the spool stands, without disturbing who forwards."""
    if not (data / "forward.db").exists():
        return Forwarding()
    with closing(_look(data / "forward.db")) as db:
        sent = dict(db.execute("select partition, next from sent"))
        landed = dict(db.execute("select partition, next from landed"))
        row = db.execute("select text, hint, since_ms from trouble").fetchone()
    alive = time.time() - (data / "forward.lock").stat().st_mtime < STALE_SECONDS
    name = _read_name(log_folder)
    return Forwarding(name[0] if name else "", sent, landed, Trouble(*row) if row else None, alive)


def needed(data: Path) -> Position | None:
    """Return from where on the log must be kept for the target of a hand-over; None if there is none."""
    if not (data / "forward.db").exists():
        return None
    with closing(_look(data / "forward.db")) as db:
        handover = _handover(db)
        if handover is None or handover.state == "copying":
            return None
        return dict(db.execute("select partition, next from sent"))


def read_handover(data: Path) -> Handover | None:
    """Return the hand-over that was begun, without disturbing who does it."""
    if not (data / "forward.db").exists():
        return None
    with closing(_look(data / "forward.db")) as db:
        return _handover(db)


def _handover(db: sqlite3.Connection) -> Handover | None:
    row = db.execute("select id, target, state from handover").fetchone()
    return None if row is None else Handover(*row)


def _row(handover: Handover) -> tuple[str, str, str]:
    return handover.id, handover.target, handover.state


def _open(path: Path) -> sqlite3.Connection:
    """Open the memory to write, for who holds the lock; make it if it is not there."""
    try:
        if not path.exists():
            create_sqlite(path, _TABLES)
        return open_sqlite(path, isolation_level="DEFERRED")
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path}: {error}", hint="questlog doctor", retry_after=1) from error


def _look(path: Path) -> sqlite3.Connection:
    """Open the memory to read it."""
    try:
        return read_sqlite(path)
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path}: {error}", hint="questlog doctor", retry_after=1) from error


def _read_name(folder: Path) -> tuple[str, int] | None:
    try:
        match = _NAME.fullmatch((folder / "spool").read_text("ascii"))
    except (OSError, UnicodeDecodeError):
        return None
    return (match[1], int(match[2])) if match else None


def _name(folder: Path) -> str:
    """Return the spool's name; a copy of the folder gets one of its own.

    Two logs of one name would use the same sequence numbers for different events, and the lander would
    take the ones that come second for repeats.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inode = folder.stat().st_ino
    found = _read_name(folder)
    if found is not None and found[1] == inode:
        return found[0]
    name = "".join(secrets.choice(_LETTERS) for _ in range(6))
    # a name that is gone after a power cut would send everything again under a new one
    write_file(folder / "spool", f"{name} {inode}\n")
    return name


def forwarded(data: Path) -> Position:
    """Return up to where the log is known to have been read, for a writer whose files are gone."""
    try:
        return read_forwarding(data, data).sent
    except (QuestlogError, OSError):
        return {}
