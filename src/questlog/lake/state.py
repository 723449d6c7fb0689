"""`catalog.db` without PyIceberg: everything that readers and the lander need, in one SQLite read.

Beside Iceberg's own catalog tables it stores the live files and position of each lake table, the checkpoint, the
ledger, the ids that clients chose, the plans by version, the lander's epoch, and the files to be deleted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from questlog.durable import is_disk_full, open_sqlite
from questlog.errors import LakeUnavailable, LanderFenced, QuestlogError
from questlog.lake.checkpoint import decode_position, encode_position
from questlog.lake.guard import check_no_tables, check_not_lost, check_root
from questlog.log import Position

LANDED, QUARANTINED, DUPLICATE, DAMAGED = OUTCOMES = ("landed", "quarantined", "duplicate", "damaged")
CATALOG = "questlog"
NAMESPACE = "questlog"
_VERSION = 2
_SCHEMA = f"""
create table if not exists iceberg_tables (
  catalog_name varchar(255) not null, table_namespace varchar(255) not null, table_name varchar(255) not null,
  metadata_location varchar(1000), previous_metadata_location varchar(1000), iceberg_type varchar(5),
  primary key (catalog_name, table_namespace, table_name));
create table if not exists iceberg_namespace_properties (
  catalog_name varchar(255) not null, namespace varchar(255) not null, property_key varchar(255) not null,
  property_value varchar(1000) not null, primary key (catalog_name, namespace, property_key));
insert or ignore into iceberg_namespace_properties values ('{CATALOG}', '{NAMESPACE}', 'exists', 'true');
create table questlog_tables (
  name text primary key, metadata_location text not null, schema text not null, position text not null,
  plan_version text not null, rows integer not null, bytes integer not null) without rowid;
create table questlog_files (
  table_name text not null, path text not null, manifest text not null, day integer, rows integer not null,
  bytes integer not null, sequence integer not null, primary key (table_name, path)) without rowid;
create index questlog_small_files on questlog_files (bytes, table_name, day);
create index questlog_days on questlog_files (table_name, day);
create table questlog_garbage (
  path text primary key, table_name text not null, last_sequence integer not null,
  since_ms integer not null) without rowid;
create table questlog_progress (id integer primary key check (id = 1), position text not null);
create table questlog_ledger (
  outcome text not null, table_name text not null, event_type text not null, reason text not null,
  records integer not null, primary key (outcome, table_name, event_type, reason)) without rowid;
create table questlog_seen (
  event_id text primary key, partition integer not null, "offset" integer not null,
  received_ms integer not null, logged_ms integer not null) without rowid;
create index questlog_seen_time on questlog_seen (logged_ms);
create table questlog_plans (version text primary key, text text not null);
create table questlog_lander (
  id integer primary key check (id = 1), epoch integer not null, pid integer not null,
  command text not null, since_ms integer not null, locked integer not null);
"""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """How many records had this outcome. `table` and `event_type` are "" if they are unknown."""

    outcome: str
    table: str
    event_type: str
    reason: str
    records: int


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
    """All tables and their common checkpoint, from one read. `counts` are the ledger's totals by outcome."""

    tables: Mapping[str, TableState] = field(default_factory=dict)
    checkpoint: Position = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def connect(path: Path) -> sqlite3.Connection:
    """Open the catalog, with settings that make a commit survive a power cut; create it if there is none."""
    if not path.exists():
        check_no_tables(path)
    try:
        connection = open_sqlite(path, wait_seconds=30)
        try:
            if _version(connection) != _VERSION:
                _create(connection, path)
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError) as error:
        raise unavailable(path, error, path.parent) from error
    return connection


def connect_lake(path: Path, warehouse: Path) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    """Open the catalog of the tables in *warehouse*; also return every spelling of that folder in the catalog.

    Raises `ProjectMoved` if the tables are in another folder.
    """
    connection = connect(path)
    try:
        return connection, check_root(connection, warehouse)
    except BaseException:
        connection.close()
        raise


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("pragma user_version").fetchone()[0])


def _create(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection):
        version = _version(connection)
        if version == _VERSION:
            return  # another process was faster
        if version or connection.execute("select 1 from sqlite_master where name = 'questlog_tables'").fetchone():
            raise QuestlogError(
                f"{path} was written by another version of questlog",
                hint="open it with that version, or start with an empty data folder",
            )
        check_no_tables(path)
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"pragma user_version={_VERSION}")


def read_state(connection: sqlite3.Connection) -> LakeState:
    """Return the tables and the checkpoint from one consistent read."""
    connection.execute("begin")
    try:
        files: dict[str, list[str]] = {}
        for name, file in connection.execute("select table_name, path from questlog_files"):
            files.setdefault(name, []).append(file)
        tables = {
            name: TableState(
                name, location, tuple(files.get(name, ())), schema, decode_position(position), plan, rows, size
            )
            for name, location, schema, position, plan, rows, size in connection.execute(
                "select name, metadata_location, schema, position, plan_version, rows, bytes"
                " from questlog_tables order by name"
            )
        }
        return LakeState(tables, read_checkpoint(connection), read_counts(connection))
    finally:
        connection.execute("commit")


def load_state(path: Path) -> LakeState:
    """Return the state in the catalog at *path*; empty if the project has never landed."""
    check_not_lost(path)
    if not path.exists():
        return LakeState()
    with closing(connect(path)) as connection:
        return read_state(connection)


def load_checkpoint(path: Path) -> Position:
    """Return the checkpoint in the catalog at *path*; empty if the project has never landed."""
    if not path.exists():
        return {}
    with closing(connect(path)) as connection:
        return read_checkpoint(connection)


def read_checkpoint(connection: sqlite3.Connection) -> Position:
    """Return where reading resumes. Every record below it is in its table."""
    row = connection.execute("select position from questlog_progress").fetchone()
    return {} if row is None else decode_position(row[0])


def read_positions(connection: sqlite3.Connection) -> dict[str, tuple[Position, str]]:
    """Return each table's position and the plan version of the commit that set it."""
    rows = connection.execute("select name, position, plan_version from questlog_tables order by name")
    return {name: (decode_position(position), version) for name, position, version in rows}


def read_schemas(connection: sqlite3.Connection) -> dict[str, str]:
    """Return each table's current Iceberg schema as JSON."""
    return dict(connection.execute("select name, schema from questlog_tables order by name").fetchall())


def check_epoch(connection: sqlite3.Connection, epoch: int | None) -> None:
    """Raise `LanderFenced` if another lander has taken over. Call inside the committing transaction."""
    if epoch is None:
        return
    row = connection.execute("select epoch from questlog_lander").fetchone()
    if row is not None and row[0] != epoch:
        raise LanderFenced(
            f"this lander (number {epoch}) sent no heartbeat for too long and was replaced by number {row[0]}",
            hint="nothing is lost; this process must stop",
        )


def save_checkpoint(
    connection: sqlite3.Connection, position: Position, counted: Iterable[LedgerRow], epoch: int | None
) -> None:
    """Store where reading resumes, and count the records that went into no table: the last commit of a batch."""
    with transaction(connection):
        check_epoch(connection, epoch)
        connection.execute("insert or replace into questlog_progress values (1, ?)", (encode_position(position),))
        add_to_ledger(connection, counted)


def save_seen(
    connection: sqlite3.Connection, seen: Iterable[tuple[str, int, int, int]], logged_ms: int, epoch: int | None
) -> None:
    """Store the first place of each client-chosen id; storing it twice changes nothing.

    *logged_ms* is when the newest of them was logged. Ids expire by that time, because the received time of an
    imported record may be older.
    """
    with transaction(connection):
        check_epoch(connection, epoch)
        rows = ((*row, logged_ms) for row in seen)
        connection.executemany("insert or replace into questlog_seen values (?, ?, ?, ?, ?)", rows)


def find_seen(connection: sqlite3.Connection, event_id: str) -> tuple[int, int, int] | None:
    """Return (partition, offset, received ms) of the first record with this id, or None."""
    row: tuple[int, int, int] | None = connection.execute(
        'select partition, "offset", received_ms from questlog_seen where event_id = ?', (event_id,)
    ).fetchone()
    return row


def add_to_ledger(connection: sqlite3.Connection, rows: Iterable[LedgerRow]) -> None:
    """Add *rows* to the ledger. Call it inside the transaction that they describe."""
    connection.executemany(
        "insert into questlog_ledger values (?, ?, ?, ?, ?)"
        " on conflict do update set records = records + excluded.records",
        [(r.outcome, r.table, r.event_type, r.reason, r.records) for r in rows if r.records],
    )
    connection.execute("delete from questlog_ledger where records = 0")


def read_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the ledger's totals by outcome."""
    totals = dict.fromkeys(OUTCOMES, 0)
    totals.update(connection.execute("select outcome, sum(records) from questlog_ledger group by outcome"))
    return totals


class transaction:
    """An immediate SQLite transaction: the whole block or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self.connection.execute("begin immediate")
        return self.connection

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.connection.execute("commit")
        finally:
            if self.connection.in_transaction:  # SQLite has already rolled back if the disk is full
                self.connection.execute("rollback")


def unavailable(what: object, error: Exception, folder: Path) -> LakeUnavailable:
    """Return the error to raise when *what* cannot be written; its hint says whether the disk is full."""
    full = is_disk_full(error, folder)
    return LakeUnavailable(
        f"{what} cannot be written: {error}",
        hint="free disk space; landing then resumes" if full else "questlog doctor",
        retry_after=1.0,
    )
