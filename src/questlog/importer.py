"""Reads JSON Lines into the log; an interrupted import goes on where it stopped, to the event.

Every event that has no id of its own gets one from the import and its line. A line that is a record (of a
topic, read with kcat) keeps its id and its received time, and is passed over if it is there. What was acknowledged is
noted beside the data after each batch; the one batch that may have been logged but not noted is looked
up by its ids. So nothing is lost and nothing doubled, whenever the power goes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import secrets
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from questlog.accept import read_id
from questlog.backfill import BackfillResult, Shown
from questlog.durable import FileLock, write_file
from questlog.errors import QuestlogError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.record import decode_record, encode_record
from questlog.stopping import StopSignal

BATCH_LINES, BATCH_BYTES = 5_000, 4 << 20
LONGEST_LINE = 16 << 20
_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"


@dataclass(slots=True)
class Noted:
    """How far an import got: of `lines` lines (`digest` is their SHA-256) `events` were acknowledged."""

    source: str
    salt: str
    started_ms: int
    lines: int = 0
    events: int = 0
    digest: str = ""
    finished: bool = False


@dataclass(frozen=True, slots=True)
class _Arrived:
    """One line: its id, when its record was received (0: it is an event, received now), and what is logged."""

    id: str
    received: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: events of this run, events of earlier runs, and how much of the file is read (bytes, of bytes)."""

    events: int
    earlier: int
    read: int
    size: int | None


class Lines(Protocol):
    """What can be imported. What was read of a *fixed* one cannot have changed since, and is not compared."""

    name: str
    size: int | None
    fixed: bool

    def read(self) -> int:
        """Return how much of it has been taken."""

    def lines(self) -> Iterator[bytes]:
        """Yield each line without its line break; blank ones hold no event."""


class Source:
    """The lines of a file, or of standard input for "-"; gzip and zstd are told by their first bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == "-" else path
        self.fixed = False
        try:
            self._file: BinaryIO = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise QuestlogError(f"{path} cannot be read: {error.strerror}") from error
        self._raw = cast(io.BufferedReader, self._file)
        self.size = None if path == "-" else os.fstat(self._file.fileno()).st_size
        head = self._raw.peek(4)[:4]
        self._lines: BinaryIO = self._file
        if head.startswith(_GZIP):
            self._lines = cast(BinaryIO, gzip.GzipFile(fileobj=self._file))
        elif head.startswith(_ZSTD):
            import zstandard

            reader = zstandard.ZstdDecompressor().stream_reader(self._file, read_across_frames=True)
            self._lines = cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader)))

    def read(self) -> int:
        """Return how many bytes of the file have been taken."""
        return self._file.tell() if self.size is not None else 0

    def lines(self) -> Iterator[bytes]:
        """Yield each line without its line break."""
        number = 0
        while True:
            number += 1
            try:
                line = self._lines.readline(LONGEST_LINE + 1)
            except (EOFError, OSError, zlib.error, _zstd_error()) as error:
                raise QuestlogError(
                    f"{self.name} breaks off or is damaged at line {number}: {error}",
                    hint="what came before is imported; repair the file and run the same command again",
                ) from error
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise QuestlogError(
                    f"line {number} of {self.name} is longer than {LONGEST_LINE >> 20} MiB",
                    hint="what came before is imported; JSON Lines has one event a line",
                )
            yield line.rstrip(b"\r\n").removeprefix(_BOM if number == 1 else b"")

    def close(self) -> None:
        """Close the file."""
        if self.path != "-":
            self._file.close()


def _zstd_error() -> type[Exception]:
    if "zstandard" not in sys.modules:
        return EOFError
    import zstandard

    return cast(type[Exception], zstandard.ZstdError)


def fill_project(
    folder: Path, files: Sequence[str], lines: Sequence[tuple[str, Lines]], stop: StopSignal, shown: Shown
) -> BackfillResult:
    """Import *files* and *lines* (each with the name by which it is remembered) into a new project, and land them."""
    result = BackfillResult()
    with open_pipeline(folder, profile="embedded", data=".questlog") as target:
        for name, source in _sources(files, lines):
            earlier = result.records
            for step in Import(target, source, name=name, fresh=True).run():
                result.records = earlier + step.events
                shown(result.records, step.read, step.size or 0)
                if stop.is_set():
                    return result
        with target.lander() as lander:
            landed = lander.drain(stop, lambda landed, total: shown(landed, landed, total))
        result.rows, result.duplicates = landed.rows, landed.duplicates
        target.log.close()
    return result


def _sources(files: Sequence[str], lines: Sequence[tuple[str, Lines]]) -> Iterator[tuple[str, Lines]]:
    for file in files:
        source = Source(file)
        yield str(Path(file).resolve()), source
        source.close()
    yield from lines


class Import:
    """One file on its way into the log. *name* is what it is remembered by; None remembers nothing (a pipe).

    Into a *fresh* project nothing can have come another way, and records are looked up only when in doubt.
    """

    def __init__(
        self, pipeline: Pipeline, source: Lines, *, name: str | None, again: bool = False, fresh: bool = False
    ) -> None:
        self._pipeline, self._source = pipeline, source
        self._name, self._again, self._fresh = name, again, fresh
        self._folder = pipeline.project.data / "imports"
        self.noted = Noted(source.name, "", 0)

    @property
    def _path(self) -> Path:
        assert self._name is not None
        return self._folder / (hashlib.sha256(self._name.encode()).hexdigest()[:16] + ".json")

    def run(self) -> Iterator[Step]:
        """Import, yielding after each batch.  1 what is known?  2 skip it  3 look up the batch in doubt  4 go on."""
        with self._alone():
            in_doubt = self._begin()
            digest = hashlib.sha256()
            lines = self._source.lines()
            self._skip(lines, digest)
            before = self.noted.events
            for batch, count in _batches(lines, digest, self.noted.lines):
                arrived = self._arrived(batch)
                if in_doubt or (not self._fresh and any(one.received for one in arrived)):
                    known = self._known(arrived)
                    in_doubt = in_doubt and bool(known)
                    arrived = [one for one in arrived if (one.id, one.received) not in known]
                self._pipeline.log.append([one.record for one in arrived])
                self.noted.lines, self.noted.digest = count, digest.hexdigest()
                self.noted.events += len(batch)
                self._note()
                yield Step(self.noted.events - before, before, self._source.read(), self._source.size)
            self.noted.finished = True
            self._note()

    def _begin(self) -> bool:
        """Return whether this import began earlier. One that did not is noted before its first event is logged."""
        if self._name is not None and self._path.exists() and not self._again:
            self.noted = Noted(**json.loads(self._path.read_text("utf-8")))
            return True
        self.noted = Noted(self._source.name, secrets.token_hex(6), time.time_ns() // 1_000_000)
        self._note()
        return False

    def _skip(self, lines: Iterator[bytes], digest: hashlib._Hash) -> None:
        """Pass over what is imported; it must still be what it was."""
        for _ in range(self.noted.lines):
            digest.update(next(lines, b"") + b"\n")
        if self.noted.lines and not self._source.fixed and digest.hexdigest() != self.noted.digest:
            raise QuestlogError(
                f"{self._source.name} has changed: its first {self.noted.lines:,} lines are not those imported",
                hint="--again imports it from its beginning as another file",
            )

    def _arrived(self, batch: list[tuple[int, bytes]]) -> list[_Arrived]:
        """Return what each line is; of a record that comes twice, the first."""
        plan, now = self._pipeline.plan, time.time_ns() // 1_000_000
        arrived: dict[tuple[str, int] | int, _Arrived] = {}
        for number, line in batch:
            if (found := decode_record(line)) is not None:
                arrived.setdefault((found.id, found.received), _Arrived(found.id, found.received, line))
                continue
            event_id, chosen, valid = read_id(line, plan)
            if not chosen:
                event_id = f"import-{self.noted.salt}-{number}"
            record = encode_record(line, id=event_id, received_ms=now, client_id=chosen, is_json=valid)
            arrived[number] = _Arrived(event_id, 0, record)
        return list(arrived.values())

    def _known(self, arrived: list[_Arrived]) -> set[tuple[str, int]]:
        """Return which of them are in the tables or the tail: events by their ids, records by received time too."""
        question = (
            "select event_id, epoch_ms(received_time) from {} where received_time >= epoch_ms($1::bigint)"
            " and event_id in (select unnest($2::varchar[]))"
        )
        since = min(one.received or self.noted.started_ms for one in arrived)
        ids = [one.id for one in arrived]
        found: set[tuple[str, int]] = set()
        for table in [*self._pipeline.plan.tables, QUARANTINE_TABLE]:
            for event_id, received in self._pipeline.sql(question.format(f'"{table}"'), [since, ids]).rows():
                found.add((event_id, received))
                if received >= self.noted.started_ms:
                    found.add((event_id, 0))
        return found

    def _note(self) -> None:
        """Write what is known so that it survives a power cut."""
        if self._name is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        write_file(self._path, json.dumps(asdict(self.noted)))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold this file's lock, so that no other process imports it now."""
        if self._name is None:
            yield
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        busy = QuestlogError(f"{self._source.name} is being imported by another process")
        with FileLock(self._path.with_suffix(".lock")).held(busy):
            yield


def _batches(
    lines: Iterator[bytes], digest: hashlib._Hash, number: int
) -> Iterator[tuple[list[tuple[int, bytes]], int]]:
    """Yield (line number, event) pairs in batches, with the count of lines read; blank lines hold no event."""
    batch: list[tuple[int, bytes]] = []
    size = 0
    while True:
        line = None
        try:
            line = next(lines, None)
        except QuestlogError:
            if batch:
                yield batch, number
            raise
        if line is None:
            if batch:
                yield batch, number
            return
        number += 1
        digest.update(line + b"\n")
        if line.strip():
            batch.append((number, line))
            size += len(line)
        if len(batch) >= BATCH_LINES or size >= BATCH_BYTES:
            yield batch, number
            batch, size = [], 0
