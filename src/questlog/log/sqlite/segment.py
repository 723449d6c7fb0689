"""One file of the log: a SQLite database with one row per group commit and two copies of the next offset."""

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
"""Errors that do not mean that the file is damaged."""


class WentBack(Exception):
    """The file ends before an offset that was read from it earlier."""


class Damaged(Exception):
    """The file does not hold what was written; intact rows must be searched for page by page."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file with a partition's offsets from `first` up to the first offset of the next segment."""

    partition: int
    first: int
    path: Path
    inode: int


class Stored(NamedTuple):
    """One group commit as stored in a segment."""

    first: int
    records: int
    received_ms: int
    crc32: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.first + self.records


def pack(first: int, lines: list[bytes], received_ms: int, compressor: zstandard.ZstdCompressor) -> Stored:
    """Return the row that stores *lines*, whose offsets start at *first*."""
    payload = compressor.compress(b"\n".join(lines))
    return Stored(first, len(lines), received_ms, checksum(first, len(lines), received_ms, payload), payload)


def checksum(first: int, count: int, received_ms: int, payload: bytes) -> int:
    """Return the CRC of a row. It covers the offset, so that a row at a wrong offset is detected."""
    return zlib.crc32(payload, zlib.crc32(struct.pack(">qqq", first, count, received_ms)))


def is_intact(row: Stored) -> bool:
    """Return whether the row is exactly what was written."""
    try:
        return checksum(row.first, row.records, row.received_ms, row.payload) == row.crc32
    except (struct.error, TypeError):  # a flipped bit turned a number into text, a float or NULL
        return False


def unpack(row: Stored) -> list[bytes]:
    """Return the lines of an intact row."""
    return zstandard.ZstdDecompressor().decompress(row.payload).split(b"\n")


def create(path: Path, first: int) -> None:
    """Create an empty segment. It appears under its name only when it is complete and on the disk."""
    create_sqlite(path, _SCHEMA.format(first=first))


def open_writer(path: Path) -> sqlite3.Connection:
    """Open for appending, with settings that make a commit survive a power cut."""
    try:
        return open_sqlite(path)
    except NotDurable as error:
        raise LogUnavailable(str(error), hint="put the data folder on a local disk (QUESTLOG_DATA)") from error


def write(connection: sqlite3.Connection, rows: list[Stored]) -> None:
    """Commit *rows*. A single row takes a single statement, because each statement waits for the GIL once more."""
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
    """Return the next offset; raise `Damaged` unless its two copies and the last row agree."""
    with _reporting_damage():
        ends = connection.execute("select next, twin from tail").fetchall()
        last = connection.execute("select first, count from batches order by first desc limit 1").fetchone()
    if len(ends) != 1 or not all(isinstance(n, int) for n in ends[0]) or ends[0][0] != ~ends[0][1]:
        raise Damaged("the two copies of the end differ")
    end: int = ends[0][0]
    if last is not None and last != (last[0], end - last[0]):
        raise Damaged("the last row is missing")
    return end


def read_age(connection: sqlite3.Connection) -> int | None:
    """Return when the newest row was received, in milliseconds, or None if the segment is empty."""
    with _reporting_damage():
        row = connection.execute("select received_ms from batches order by first desc limit 1").fetchone()
    if row is not None and not isinstance(row[0], int):
        raise Damaged("the last row has no time")
    return None if row is None else row[0]


@contextlib.contextmanager
def holding(connection: sqlite3.Connection) -> Iterator[bool]:
    """Hold a read transaction, so that no writer moves pages; yield False if the file is too damaged for one."""
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
    """Yield the intact rows from offset *start* to *until*, or to the end.

    Raises `Damaged` at the first row that is missing or wrong; all rows yielded before it are correct.
    """
    with holding(connection):
        end = read_tail(connection) if until is None else until
        if start > end:
            raise WentBack(f"it ends at offset {end} but was read up to {start} earlier")
        if start < end:
            yield from _scan(connection, start, end)


def _scan(connection: sqlite3.Connection, start: int, end: int) -> Iterator[Stored]:
    """The caller may stop early: closing the generator closes the cursor."""
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
                values = cursor.fetchone()
            row = Stored(*values) if values is not None else None
            if row is None or not is_intact(row) or not row.first <= start < row.end <= end:
                raise Damaged(f"the row with offset {start} is missing or wrong")
            if resumed and row.first != start:
                raise Damaged(f"offset {row.first} appears twice")
            yield row
            start, resumed = row.end, True


@contextlib.contextmanager
def _reporting_damage() -> Iterator[None]:
    """Turn SQLite errors about a corrupt file into `Damaged`; let other errors pass."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
        misused = isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError)
        if misused or code & 0xFF in _TRANSIENT:
            raise
        raise Damaged(str(error)) from error
