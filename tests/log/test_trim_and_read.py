"""A log that is trimmed while it is read: records are complete, and missing ones are reported as trimmed."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.durable import read_sqlite
from questlog.errors import LogUnavailable
from questlog.log import START, Gap
from questlog.log.sqlite import SqliteLog
from questlog.log.sqlite.partition import list_segments
from questlog.log.sqlite.reader import Reader

FOREVER = 2**62
RECORDS = 80


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """A log of many small segments, which are deleted as soon as they are eligible."""
    log = SqliteLog(tmp_path / "log", min_free_bytes=0, segment_bytes=1, trim_grace_seconds=0)
    for number in range(RECORDS):
        log.append([b"%d" % number])
    yield log
    log.close()


@pytest.mark.parametrize("step", [1, 3])
def test_a_log_can_be_read_from_its_beginning_while_it_is_trimmed(log: SqliteLog, step: int) -> None:
    (partition,) = log.end()
    ended = threading.Event()

    def trim() -> None:
        for reached in range(0, RECORDS - 1, step):
            log.trim({partition: reached}, FOREVER)
        ended.set()

    trimmer = threading.Thread(target=trim)
    trimmer.start()
    try:
        while not ended.is_set():
            batch = log.read(START, FOREVER)
            first = batch.entries[0].offset
            assert [entry.value for entry in batch.entries] == [b"%d" % n for n in range(first, RECORDS)]
            assert batch.gaps == ((Gap(partition, 0, first, "trimmed after landing"),) if first else ())
            assert log.end() == {partition: RECORDS}
    finally:
        trimmer.join()


@pytest.mark.parametrize("moment", ["before it is opened", "as it is opened", "before it is read"])
@pytest.mark.parametrize("segment", ["a full one", "the last"])
def test_a_segment_trimmed_during_a_read_is_not_reported_as_damage(
    log: SqliteLog, moment: str, segment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (partition,) = log.end()
    doomed = list_segments(log.folder)[partition][-1 if segment == "the last" else 40]
    reader, connect = Reader(log.folder), sqlite3.connect

    def trim() -> None:
        monkeypatch.undo()
        log.close()
        log.trim({partition: RECORDS}, FOREVER)

    def open_segment(path: Path) -> sqlite3.Connection:
        if path != doomed.path:
            return read_sqlite(path)
        if moment == "before it is opened":
            trim()
        if moment == "as it is opened":
            monkeypatch.setattr(sqlite3, "connect", lambda *words, **options: (trim(), connect(*words, **options))[1])
        connection = read_sqlite(path)
        if moment == "before it is read":
            trim()
        return connection

    monkeypatch.setattr("questlog.log.sqlite.reader.read_sqlite", open_segment)
    batch = reader.read(START, FOREVER, FOREVER)
    assert batch.gaps == (Gap(partition, 0, RECORDS, "trimmed after landing"),)
    assert not doomed.path.exists()
    reader.close()


def test_files_that_keep_disappearing_are_reported(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("questlog.log.sqlite.reader._MOVED_SECONDS", 0.1)
    (partition,) = log.end()
    (log.folder / f"{partition:010}-{RECORDS:016}.db").symlink_to("nowhere")
    with pytest.raises(LogUnavailable, match="are changing faster than they can be read"):
        log.read(START, FOREVER)
