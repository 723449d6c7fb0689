"""Where keys lie: one SQLite file that only its owner may read, and one for the signatures that were used."""

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
    """The keys of one project. For one thread; a process opens its own after it is forked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def exists(self) -> bool:
        """Return whether anybody ever made a key here."""
        return self._path.exists()

    def read(self) -> list[Key]:
        """Return every key, also those that are over."""
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
        """Make a key; return it and its text, which is kept nowhere."""
        secret = secrets.token_hex(32).encode() if signed else b""
        with self._change() as connection:
            return self._insert(connection, source, origins, rate, secret)

    def end(self, name: str, at_ms: int) -> list[Key]:
        """Let the key of an id, or all keys of a source, end at a time; return those that it ended."""
        keys = self._named(name, at_ms)
        with self._change() as connection:
            for key in keys:
                connection.execute("update keys set ends_ms = ? where number = ?", (at_ms, key.number))
        return keys

    def rotate(self, name: str, old_ends_ms: int) -> list[tuple[Key, Key, str]]:
        """Replace keys: return each old one, which works on until then, with its successor and that one's text."""
        found = []
        keys = self._named(name, old_ends_ms)
        with self._change() as connection:
            for old in keys:
                secret = secrets.token_hex(32).encode() if old.secret else b""
                new, text = self._insert(connection, old.source, old.origins, old.rate, secret)
                connection.execute("update keys set ends_ms = ? where number = ?", (old_ends_ms, old.number))
                found.append((old, new, text))
        return found

    def _named(self, name: str, at_ms: int) -> list[Key]:
        keys = [
            key for key in self.read()
            if name in (key.id, key.source) and (key.ends_ms is None or key.ends_ms > at_ms)
        ]  # fmt: skip
        if not keys:
            raise QuestlogError("no key in use has that id or source", hint="questlog key list")
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
        """Say of a file that holds no keys, or that another process keeps, what can be done."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise QuestlogError(
                f"the write keys in {self._path.name} cannot be read: {error}",
                hint="bring the file back from a copy, or move it away and make new keys",
            ) from error


class UsedSignatures:
    """Signatures that came within the window, shared by all workers: each counts once."""

    def __init__(self, path: Path) -> None:
        self._connection = _connect(path, "off", _USED)  # after a power cut the window is open for five minutes

    def use(self, signature: str, now_ms: int) -> bool:
        """Take a signature; return False if somebody has already."""
        self._connection.execute("delete from used where until_ms < ?", (now_ms,))
        until = now_ms + 2 * SIGNED_SECONDS * 1000
        row = (bytes.fromhex(signature), until)
        return self._connection.execute("insert or ignore into used values (?, ?)", row).rowcount == 1

    def give_back(self, signature: str) -> None:
        """Forget a signature whose request was not recorded: it may be sent again as it is."""
        self._connection.execute("delete from used where signature = ?", (bytes.fromhex(signature),))


def _connect(path: Path, synchronous: Literal["full", "off"], table: str) -> sqlite3.Connection:
    connection = open_sqlite(path, synchronous=synchronous, wait_seconds=5, mode=0o600)
    connection.execute(table)
    return connection
