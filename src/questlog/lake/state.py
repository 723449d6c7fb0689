"""`catalog.db` without PyIceberg: what readers and the lander need in one SQLite read.

Tables: current pointer, live files and position of each lake table; progress and the ledger's counts;
ids that clients chose; plans by version; the lander's epoch.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from questlog.errors import LanderFenced
from questlog.log import Position

_SCHEMA = """
create table if not exists questlog_tables (
  name text primary key, metadata_location text not null, files text not null, schema text not null,
  position text not null, plan_version text not null, rows integer not null, bytes integer not null);
create table if not exists questlog_progress (
  id integer primary key check (id = 1), position text not null, counts text not null);
create table if not exists questlog_seen (
  event_id text primary key, partition integer not null, "offset" integer not null,
  received_ms integer not null) without rowid;
create index if not exists questlog_seen_time on questlog_seen (received_ms);
create table if not exists questlog_plans (version text primary key, text text not null);
create table if not exists questlog_lander (
  id integer primary key check (id = 1), epoch integer not null, pid integer not null,
  heartbeat_ms integer not null);
"""


@dataclass(frozen=True, slots=True)
class TableState:
    """One lake table as of its last commit. `schema` is Iceberg's JSON."""

    name: str
    metadata_location: str
    files: tuple[str, ...]
    schema: str
    position: Position
    plan_version: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LakeState:
    """All tables and the progress, from one consistent read."""

    tables: Mapping[str, TableState] = field(default_factory=dict)
    progress: Position = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def connect(path: Path) -> sqlite3.Connection:
    """Open the catalog for writing with the settings that survived power cuts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=30, check_same_thread=False, isolation_level=None)
    connection.execute("pragma journal_mode=wal")
    connection.execute("pragma synchronous=full")
    connection.executescript(_SCHEMA)
    return connection


def read_state(connection: sqlite3.Connection) -> LakeState:
    """Return tables and progress as one commit left them."""
    connection.execute("begin")
    try:
        tables = {
            row[0]: TableState(row[0], row[1], tuple(json.loads(row[2])), row[3], decode(row[4]), *row[5:])
            for row in connection.execute("select * from questlog_tables order by name")
        }
        progress = connection.execute("select position, counts from questlog_progress").fetchone()
    finally:
        connection.execute("commit")
    if progress is None:
        return LakeState(tables)
    return LakeState(tables, decode(progress[0]), json.loads(progress[1]))


def load_state(path: Path) -> LakeState:
    """Return the state in the catalog at *path*; a project that never landed has none."""
    if not path.exists():
        return LakeState()
    with closing(connect(path)) as connection:
        return read_state(connection)


def check_epoch(connection: sqlite3.Connection, epoch: int | None) -> None:
    """Raise `LanderFenced` if another lander has taken over. Call inside the committing transaction."""
    if epoch is None:
        return
    row = connection.execute("select epoch from questlog_lander").fetchone()
    if row is not None and row[0] != epoch:
        raise LanderFenced(f"lander {epoch} was replaced by lander {row[0]}", hint="this process must stop")


def save_progress(
    connection: sqlite3.Connection, position: Position, counts: Mapping[str, int], epoch: int | None
) -> None:
    """Remember where reading resumes; the last commit of a landed batch."""
    with transaction(connection):
        check_epoch(connection, epoch)
        connection.execute(
            "insert into questlog_progress values (1, ?, ?)"
            " on conflict (id) do update set position = excluded.position, counts = excluded.counts",
            (encode(position), json.dumps(dict(counts))),
        )


def save_seen(connection: sqlite3.Connection, seen: Iterable[tuple[str, int, int, int]], epoch: int | None) -> None:
    """Remember the first place of each client-chosen id; running it again changes nothing."""
    with transaction(connection):
        check_epoch(connection, epoch)
        connection.executemany("insert or replace into questlog_seen values (?, ?, ?, ?)", seen)


def find_seen(connection: sqlite3.Connection, event_id: str) -> tuple[int, int, int] | None:
    """Return (partition, offset, received ms) of the first record with this id, if known."""
    row: tuple[int, int, int] | None = connection.execute(
        'select partition, "offset", received_ms from questlog_seen where event_id = ?', (event_id,)
    ).fetchone()
    return row


class transaction:
    """An immediate SQLite transaction: all of the block or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self.connection.execute("begin immediate")
        return self.connection

    def __exit__(self, kind: object, *_: object) -> None:
        self.connection.execute("rollback" if kind else "commit")


def encode(position: Position) -> str:
    """Return a position as JSON text."""
    return json.dumps({str(p): o for p, o in sorted(position.items())}, separators=(",", ":"))


def decode(text: str) -> Position:
    """Return the position in JSON *text*."""
    return {int(p): int(o) for p, o in json.loads(text).items()}
