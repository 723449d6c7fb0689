"""Stores write keys and used signatures, each in a SQLite file that only its owner may read."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from questlog.collector.keys import SIGNED_SECONDS, Key, digest_of, new_key
from questlog.durable import open_sqlite
from questlog.errors import QuestlogError

_KEYS = """create table if not exists keys (
  number integer primary key, id text not null unique, source text not null, digest blob not null unique,
  origins text not null, rate real not null, secret blob not null, created_ms integer not null, ends_ms integer)"""
_USED = "create table if not exists used (signature blob primary key, until_ms integer not null) without rowid"


class KeyStore:
    """The keys of one project. Not thread-safe; a forked process opens its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def exists(self) -> bool:
        """Return whether a key was ever created in this project."""
        return self._path.exists()

    def read(self) -> list[Key]:
        """Return every key, including those that have ended."""
        if not self.exists():
            return []
        with self._readable():
            rows = self._open().execute("select * from keys order by number").fetchall()
        return [
            Key(number, identity, source, digest, tuple(json.loads(origins)), rate, secret, created, ends)
            for number, identity, source, digest, origins, rate, secret, created, ends in rows
        ]

    def version(self) -> object:
        """Return something that changes when another process changes the keys."""
        with self._readable():
            return self._open().execute("pragma data_version").fetchone() if self.exists() else None

    def create(self, source: str, origins: Sequence[str], rate: float, *, signed: bool) -> tuple[Key, str]:
        """Create a key; return it and its text, which is not stored."""
        secret = secrets.token_hex(32).encode() if signed else b""
        with self._change() as connection:
            return self._insert(connection, source, origins, rate, secret)

    def end(self, name: str, at_ms: int) -> list[Key]:
        """End the key with this id, or all keys of this source, at a time; return the keys that end."""
        keys = self._named(name, at_ms)
        with self._change() as connection:
            for key in keys:
                connection.execute("update keys set ends_ms = ? where number = ?", (at_ms, key.number))
        return keys

    def rotate(self, name: str, old_ends_ms: int) -> list[tuple[Key, Key, str]]:
        """Replace keys; return each old key, which works until then, its successor, and the successor's text."""
        rotated = []
        keys = self._named(name, old_ends_ms)
        with self._change() as connection:
            for old in keys:
                secret = secrets.token_hex(32).encode() if old.secret else b""
                new, text = self._insert(connection, old.source, old.origins, old.rate, secret)
                connection.execute("update keys set ends_ms = ? where number = ?", (old_ends_ms, old.number))
                rotated.append((old, new, text))
        return rotated

    def _named(self, name: str, at_ms: int) -> list[Key]:
        keys = [
            key for key in self.read()
            if name in (key.id, key.source) and (key.ends_ms is None or key.ends_ms > at_ms)
        ]  # fmt: skip
        if not keys:
            raise QuestlogError("no active key has this id or source", hint="questlog key list")
        return keys

    def _insert(
        self, connection: sqlite3.Connection, source: str, origins: Sequence[str], rate: float, secret: bytes
    ) -> tuple[Key, str]:
        text, identity, now = new_key(), secrets.token_hex(4), time.time_ns() // 1_000_000
        row = (identity, source, digest_of(text), json.dumps(list(origins)), rate, secret, now)
        cursor = connection.execute(
            "insert into keys (id, source, digest, origins, rate, secret, created_ms) values (?, ?, ?, ?, ?, ?, ?)", row
        )
        assert cursor.lastrowid is not None
        return Key(cursor.lastrowid, identity, source, row[2], tuple(origins), rate, secret, now), text

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        connection.execute("begin immediate")
        try:
            yield connection
        except BaseException:
            connection.execute("rollback")
            raise
        connection.execute("commit")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = _connect(self._path, "full", _KEYS)
        return self._connection

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        """Report a file that is damaged or locked, and what to do about it."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise QuestlogError(
                f"cannot read the write keys in {self._path.name}: {error}",
                hint="restore the file from a backup, or move it away and create new keys",
            ) from error


def open_keys(data: Path) -> KeyStore:
    """Return the keys of the project whose data folder this is."""
    return KeyStore(data / "keys.db")


class UsedSignatures:
    """Signatures used within the time window, shared by all workers: each can be used once."""

    def __init__(self, path: Path) -> None:
        self._connection = _connect(path, "off", _USED)  # a power cut may allow replays for five minutes

    def use(self, signature: str, now_ms: int) -> bool:
        """Mark a signature as used; return False if it already was."""
        self._connection.execute("delete from used where until_ms < ?", (now_ms,))
        until = now_ms + 2 * SIGNED_SECONDS * 1000
        row = (bytes.fromhex(signature), until)
        return self._connection.execute("insert or ignore into used values (?, ?)", row).rowcount == 1

    def release(self, signature: str) -> None:
        """Forget a signature whose request was not recorded, so that the request can be sent again unchanged."""
        self._connection.execute("delete from used where signature = ?", (bytes.fromhex(signature),))


def _connect(path: Path, synchronous: Literal["full", "off"], table: str) -> sqlite3.Connection:
    connection = open_sqlite(path, synchronous=synchronous, wait_seconds=5, mode=0o600)
    connection.execute(table)
    return connection
