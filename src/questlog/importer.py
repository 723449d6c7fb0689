"""Imports JSON Lines into the log. An interrupted import resumes exactly where it stopped.

An event without an id gets one from the import and its line number. A line that is already a record (exported from a
topic, for example) keeps its id and received time, and is skipped if it is present. The progress is stored beside the
data after each batch. One batch may have been logged but not recorded as progress; its ids are looked up. So nothing
is lost or duplicated, even by a power cut.
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
from questlog.durable import FileLock, make_folder, write_file
from questlog.errors import QuestlogError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.record import decode_record, encode_record
from questlog.stopping import StopSignal

BATCH_LINES, BATCH_BYTES = 5_000, 4 << 20
LONGEST_LINE = 16 << 20
_GZIP, _ZSTD, _BOM = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"


@dataclass(slots=True)
class Progress:
    """The progress of an import: `lines` lines, whose SHA-256 is `digest`, with `events` acknowledged events."""

    source: str
    salt: str
    started_ms: int
    lines: int = 0
    events: int = 0
    digest: str = ""
    finished: bool = False


@dataclass(frozen=True, slots=True)
class _Line:
    """One line: its id, the received time of its record (0 for an event, which is received now), and its record."""

    id: str
    received: int
    record: bytes


@dataclass(frozen=True, slots=True)
class Step:
    """Events imported by this run and by earlier ones, and how many bytes of the file have been read."""

    events: int
    earlier: int
    read: int
    size: int | None


class Lines(Protocol):
    """Something to import. The lines of a *fixed* one cannot change, so they are not compared on resuming."""

    name: str
    size: int | None
    fixed: bool

    def read(self) -> int:
        """Return how much has been read."""

    def lines(self) -> Iterator[bytes]:
        """Yield each line without its line break. A blank line is not an event."""


class Source:
    """The lines of a file, or of standard input for "-". Gzip and zstd are detected by their first bytes."""

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
        """Return how many bytes of the file have been read."""
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
                    f"{self.name} is truncated or damaged at line {number}: {error}",
                    hint="the lines before it are imported; repair the file and run the same command again",
                ) from error
            if not line:
                return
            if len(line) > LONGEST_LINE:
                raise QuestlogError(
                    f"line {number} of {self.name} is longer than {LONGEST_LINE >> 20} MiB",
                    hint="the lines before it are imported; write one event per line",
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
    """Import *files* and *lines* (each with the name of its stored progress) into a new project, and land them."""
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
    """The import of one file. Its progress is stored under *name*; None stores no progress (a pipe).

    In a *fresh* project no record can have arrived another way, so records are looked up only when resuming.
    """

    def __init__(
        self, pipeline: Pipeline, source: Lines, *, name: str | None, again: bool = False, fresh: bool = False
    ) -> None:
        self._pipeline, self._source = pipeline, source
        self._name, self._again, self._fresh = name, again, fresh
        self._folder = pipeline.project.data / "imports"
        self.progress = Progress(source.name, "", 0)

    @property
    def _path(self) -> Path:
        assert self._name is not None
        return self._folder / (hashlib.sha256(self._name.encode()).hexdigest()[:16] + ".json")

    def run(self) -> Iterator[Step]:
        """Import, yielding after each batch.  1 load progress  2 skip  3 look up the batch in doubt  4 continue."""
        with self._locked():
            in_doubt = self._begin()
            digest = hashlib.sha256()
            lines = self._source.lines()
            self._skip(lines, digest)
            before = self.progress.events
            for batch, count in _batches(lines, digest, self.progress.lines):
                arrived = self._arrived(batch)
                if in_doubt or (not self._fresh and any(line.received for line in arrived)):
                    present = self._present(arrived)
                    in_doubt = in_doubt and bool(present)
                    arrived = [line for line in arrived if (line.id, line.received) not in present]
                self._pipeline.log.append([line.record for line in arrived])
                self.progress.lines, self.progress.digest = count, digest.hexdigest()
                self.progress.events += len(batch)
                self._save()
                yield Step(self.progress.events - before, before, self._source.read(), self._source.size)
            self.progress.finished = True
            self._save()

    def _begin(self) -> bool:
        """Return whether this import began earlier. A new one is stored before its first event is logged."""
        if self._name is not None and self._path.exists() and not self._again:
            self.progress = Progress(**json.loads(self._path.read_text("utf-8")))
            return True
        self.progress = Progress(self._source.name, secrets.token_hex(6), time.time_ns() // 1_000_000)
        self._save()
        return False

    def _skip(self, lines: Iterator[bytes], digest: hashlib._Hash) -> None:
        """Skip the lines that are already imported; they must not have changed."""
        for _ in range(self.progress.lines):
            digest.update(next(lines, b"") + b"\n")
        if self.progress.lines and not self._source.fixed and digest.hexdigest() != self.progress.digest:
            raise QuestlogError(
                f"{self._source.name} has changed: its first {self.progress.lines:,} lines are not the imported ones",
                hint="--again imports it from the beginning, as another file",
            )

    def _arrived(self, batch: list[tuple[int, bytes]]) -> list[_Line]:
        """Return the record of each line; if a record occurs twice, the first one."""
        plan, now = self._pipeline.plan, time.time_ns() // 1_000_000
        arrived: dict[tuple[str, int] | int, _Line] = {}
        for number, line in batch:
            if (record := decode_record(line)) is not None:
                arrived.setdefault((record.id, record.received), _Line(record.id, record.received, line))
                continue
            event_id, chosen, valid = read_id(line, plan)
            if not chosen:
                event_id = f"import-{self.progress.salt}-{number}"
            encoded = encode_record(line, id=event_id, received_ms=now, client_id=chosen, is_json=valid)
            arrived[number] = _Line(event_id, 0, encoded)
        return list(arrived.values())

    def _present(self, arrived: list[_Line]) -> set[tuple[str, int]]:
        """Return which of them are in the tables or the tail: events by id, records by id and received time."""
        question = (
            "select event_id, epoch_ms(received_time) from {} where received_time >= epoch_ms($1::bigint)"
            " and event_id in (select unnest($2::varchar[]))"
        )
        since = min(line.received or self.progress.started_ms for line in arrived)
        ids = [line.id for line in arrived]
        present: set[tuple[str, int]] = set()
        for table in [*self._pipeline.plan.tables, QUARANTINE_TABLE]:
            for event_id, received in self._pipeline.sql(question.format(f'"{table}"'), [since, ids]).rows():
                present.add((event_id, received))
                if received >= self.progress.started_ms:
                    present.add((event_id, 0))
        return present

    def _save(self) -> None:
        """Store the progress durably."""
        if self._name is None:
            return
        make_folder(self._folder)
        write_file(self._path, json.dumps(asdict(self.progress)))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold this file's lock, so that no other process imports it at the same time."""
        if self._name is None:
            yield
            return
        make_folder(self._folder)
        busy = QuestlogError(f"{self._source.name} is being imported by another process")
        with FileLock(self._path.with_suffix(".lock")).held(busy):
            yield


def _batches(
    lines: Iterator[bytes], digest: hashlib._Hash, number: int
) -> Iterator[tuple[list[tuple[int, bytes]], int]]:
    """Yield (line number, event) pairs in batches, with the number of lines read so far, blank ones included."""
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
