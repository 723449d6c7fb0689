"""One file of the log: a SQLite database with one row per group commit, and the end written twice."""

from __future__ import annotations

import contextlib
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zstandard

from questlog.durable import create_sqlite, open_sqlite
from questlog.errors import LogUnavailable, NotDurable

PAGE = 4096
_SCHEMA = f"""
pragma page_size = {PAGE};
pragma auto_vacuum = none;
begin;
create table batches (
  first integer primary key, count integer not null, received_ms integer not null,
  crc32 integer not null, payload blob not null
);
create table tail (next integer not null, twin integer not null);
create trigger grown after insert on batches begin
  update tail set next = new.first + new.count, twin = ~(new.first + new.count);
end;
insert into tail values ({{first}}, ~{{first}});
commit;
"""
_TRANSIENT = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_FULL,
}  # fmt: skip
"""Errors that say nothing about what is in the file."""


class WentBack(Exception):
    """The file ends before a place that was read from it once."""


class Damaged(Exception):
    """The file is not what was written; what can be read must be looked for page by page."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file that holds a partition's offsets from *first* on, up to the next segment's."""

    partition: int
    first: int
    path: Path
    inode: int


class Stored(NamedTuple):
    """One group commit as it stands in a file."""

    first: int
    records: int
    received_ms: int
    crc32: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.first + self.records


def pack(first: int, lines: list[bytes], received_ms: int, compressor: zstandard.ZstdCompressor) -> Stored:
    """Return the row that holds *lines* from offset *first* on."""
    payload = compressor.compress(b"\n".join(lines))
    return Stored(first, len(lines), received_ms, checksum(first, len(lines), received_ms, payload), payload)


def checksum(first: int, count: int, received_ms: int, payload: bytes) -> int:
    """Return the CRC of a row: its place is part of it, so a row at a wrong offset is not believed."""
    return zlib.crc32(payload, zlib.crc32(struct.pack(">qqq", first, count, received_ms)))


def is_intact(row: Stored) -> bool:
    """Return whether the row is byte for byte what was written."""
    try:
        return checksum(row.first, row.records, row.received_ms, row.payload) == row.crc32
    except (struct.error, TypeError):  # a flipped byte made a number a text, a float or nothing
        return False


def unpack(row: Stored) -> list[bytes]:
    """Return the lines of an intact row."""
    return zstandard.ZstdDecompressor().decompress(row.payload).split(b"\n")


def create(path: Path, first: int) -> None:
    """Make an empty segment. It appears under its name only when it is whole and on the disk."""
    create_sqlite(path, _SCHEMA.format(first=first))


def open_writer(path: Path) -> sqlite3.Connection:
    """Open for appending, with the settings that survived power cuts."""
    try:
        return open_sqlite(path)
    except NotDurable as error:
        raise LogUnavailable(str(error), hint="put the data folder on a local disk (QUESTLOG_DATA)") from error


def write(connection: sqlite3.Connection, rows: list[Stored]) -> None:
    """Commit *rows*; one row is one statement, because each statement is one more wait for the GIL."""
    insert = "insert into batches values (?, ?, ?, ?, ?)"
    if len(rows) == 1:
        connection.execute(insert, rows[0])
        return
    connection.execute("begin immediate")
    try:
        connection.executemany(insert, rows)
        connection.execute("commit")
    except BaseException:
        if connection.in_transaction:
            connection.execute("rollback")
        raise


def read_tail(connection: sqlite3.Connection) -> int:
    """Return the next offset; raise `Damaged` unless both copies and the last row agree."""
    with _reporting_damage():
        found = connection.execute("select next, twin from tail").fetchall()
        last = connection.execute("select first, count from batches order by first desc limit 1").fetchone()
    if len(found) != 1 or not all(isinstance(n, int) for n in found[0]) or found[0][0] != ~found[0][1]:
        raise Damaged("the two copies of the end differ")
    end: int = found[0][0]
    if last is not None and last != (last[0], end - last[0]):
        raise Damaged("the last row is missing")
    return end


def read_age(connection: sqlite3.Connection) -> int | None:
    """Return when the newest row was received, in milliseconds; None for an empty segment."""
    with _reporting_damage():
        row = connection.execute("select received_ms from batches order by first desc limit 1").fetchone()
    if row is not None and not isinstance(row[0], int):
        raise Damaged("the last row has no time")
    return None if row is None else row[0]


@contextlib.contextmanager
def holding(connection: sqlite3.Connection) -> Iterator[bool]:
    """Read one state of the file, whose pages no writer moves; give False where it is too broken for that."""
    held = False
    with contextlib.suppress(Damaged), _reporting_damage():
        connection.execute("begin")
        connection.execute("select 1 from sqlite_master limit 1").fetchone()
        held = True
    try:
        yield held
    finally:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("rollback")


def scan(connection: sqlite3.Connection, start: int, until: int | None) -> Iterator[Stored]:
    """Yield intact rows that hold *start* and what follows, up to *until* or to the end.

    Raises `Damaged` at the first place where something is missing or wrong; rows before it are right.
    """
    with holding(connection):
        end = read_tail(connection) if until is None else until
        if start > end:
            raise WentBack(f"it ends at offset {end}, but was read up to {start}")
        if start < end:
            yield from _scan(connection, start, end)


def _scan(connection: sqlite3.Connection, start: int, end: int) -> Iterator[Stored]:
    """The caller may stop half-way: the cursor is closed with the generator."""
    with _reporting_damage():
        cursor = connection.execute(
            "select first, count, received_ms, crc32, payload from batches"
            " where first >= coalesce((select max(first) from batches where first <= ?), 0) order by first",
            (start,),
        )
    with contextlib.closing(cursor):
        resumed = False
        while start < end:
            with _reporting_damage():
                found = cursor.fetchone()
            row = Stored(*found) if found is not None else None
            if row is None or not is_intact(row) or not row.first <= start < row.end <= end:
                raise Damaged(f"offset {start} is not where it belongs")
            if resumed and row.first != start:
                raise Damaged(f"offset {row.first} is there twice")
            yield row
            start, resumed = row.end, True


@contextlib.contextmanager
def _reporting_damage() -> Iterator[None]:
    """Turn what SQLite says about a broken file into `Damaged`; other trouble passes as it is."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        misused = isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError)
        if misused or code & 0xFF in _TRANSIENT:
            raise
        raise Damaged(str(error)) from error
