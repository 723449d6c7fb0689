"""Every `Log` keeps every acknowledged record, in order. A second log joins by adding a row to LOGS."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from questlog.errors import LogFull
from questlog.log import START, Batch, Log, Position, merge
from questlog.log.sqlite import SqliteLog

Opener = Callable[[], Log]


def open_sqlite(folder: Path) -> SqliteLog:
    return SqliteLog(folder / "log", min_free_bytes=0)


LOGS = {"sqlite": open_sqlite}
"""Name -> function that opens the log in a folder. Calling it again opens the same log."""

FOREVER = 2**62


@pytest.fixture(params=sorted(LOGS))
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Return a function that opens the same log again, as another process would."""
    opened: list[Log] = []

    def open_log() -> Log:
        opened.append(LOGS[request.param](tmp_path))
        return opened[-1]

    yield open_log
    for log in opened:
        getattr(log, "close", lambda: None)()


def read_all(log: Log, after: Position = START, limit: int = 100) -> list[Batch]:
    """Read in steps until there is nothing new."""
    batches = []
    while batch := log.read(after, limit):
        batches.append(batch)
        after = batch.through
    return batches


def values(log: Log, after: Position = START) -> list[bytes]:
    return [entry.value for batch in read_all(log, after) for entry in batch.entries]


def test_records_are_read_back_in_the_order_they_were_appended(opener: Opener) -> None:
    """Records are returned byte for byte, in order, at contiguous offsets."""
    log = opener()
    log.append([b"one", b"", b'{"three": 3}'])
    log.append(["vier \u00fc\u2028".encode()])
    batch = log.read(START, 100)
    assert [b"one", b"", b'{"three": 3}', "vier \u00fc\u2028".encode()] == [entry.value for entry in batch.entries]
    assert [entry.offset for entry in batch.entries] == [0, 1, 2, 3]
    assert len({entry.partition for entry in batch.entries}) == 1
    assert not batch.gaps


def test_append_returns_the_position_just_past_its_records(opener: Opener) -> None:
    """A read from that position returns only later records."""
    log = opener()
    first = log.append([b"a", b"b"])
    assert list(first.values()) == [2]
    second = log.append([b"c"])
    assert values(log, first) == [b"c"]
    assert values(log, second) == []
    assert dict(second) == dict(log.end())


def test_an_empty_append_changes_nothing(opener: Opener) -> None:
    """It adds no record and uses no offset."""
    log = opener()
    assert log.append([]) == START
    assert not log.read(START, 10)
    assert sum(log.end().values()) == 0


def test_a_log_without_a_writer_is_empty(opener: Opener) -> None:
    """A read before the first append is allowed and creates nothing."""
    log = opener()
    assert not log.read(START, 10)
    assert dict(log.end()) == {}
    assert log.trim({}, FOREVER) == 0


def test_a_record_with_a_line_break_is_refused(opener: Opener) -> None:
    """The log stores lines, so a record that would be read back as two is refused before it is queued."""
    log = opener()
    with pytest.raises(ValueError):
        log.append([b"fine", b"two\nlines"])
    with pytest.raises(TypeError):
        log.append(["text"])  # type: ignore[list-item]
    log.append([b"after"])
    assert values(log) == [b"after"]


def test_an_acknowledged_record_is_visible_to_every_reader(opener: Opener) -> None:
    """Once `append` has returned, any reader that starts finds the record."""
    writer, reader = opener(), opener()
    for number in range(50):
        position = writer.append([b"%d" % number])
        assert dict(reader.end()) == dict(position)
        assert b"%d" % number == reader.read({p: o - 1 for p, o in position.items()}, 1).entries[-1].value


def test_reading_resumes_at_any_position(opener: Opener) -> None:
    """A position may also point between records that were appended together."""
    log = opener()
    log.append([b"%d" % n for n in range(10)])
    (partition,) = log.end()
    for start in range(11):
        assert [b"%d" % n for n in range(start, 10)] == values(log, {partition: start})


def test_a_read_is_bounded_by_count_and_by_bytes(opener: Opener) -> None:
    """A read stops after the append that reached a limit, and the next read continues from there."""
    log = opener()
    for number in range(40):
        log.append([b"%04d" % number + b"x" * 996] * 5)
    by_count = log.read(START, 10)
    assert 10 <= len(by_count.entries) < 20
    by_bytes = log.read(START, FOREVER, max_bytes=20_000)
    assert 20 <= len(by_bytes.entries) < 30
    rest = log.read(by_bytes.through, FOREVER)
    assert len(by_bytes.entries) + len(rest.entries) == 200


def test_a_busy_partition_does_not_starve_a_quiet_one(opener: Opener) -> None:
    """The first bounded read includes every writer's records, however many another has written."""
    busy, quiet = opener(), opener()
    for number in range(100):
        busy.append([b"busy %d" % number] * 10)
    quiet.append([b"quiet"])
    for reader in (busy, quiet):
        assert b"quiet" in [entry.value for entry in reader.read(START, 20).entries]


def test_concurrent_writers_use_separate_partitions(opener: Opener) -> None:
    """Two concurrent writers never share a partition, and each keeps its order."""
    one, two = opener(), opener()
    for number in range(20):
        one.append([b"one %d" % number])
        two.append([b"two %d" % number])
    by_partition: dict[int, list[bytes]] = {}
    for batch in read_all(opener()):
        for entry in batch.entries:
            by_partition.setdefault(entry.partition, []).append(entry.value)
    assert [[b"one %d" % n for n in range(20)], [b"two %d" % n for n in range(20)]] == sorted(by_partition.values())


def test_the_partition_of_a_closed_log_is_reused(opener: Opener) -> None:
    """Restarts create no new partitions, and offsets continue where they stopped."""
    for number in range(5):
        log = opener()
        log.append([b"%d" % number])
        getattr(log, "close", lambda: None)()
    assert list(opener().end().values()) == [5]
    assert values(opener()) == [b"0", b"1", b"2", b"3", b"4"]


def test_threads_append_concurrently_without_losing_or_moving_a_record(opener: Opener) -> None:
    """The records of each append are at the offsets just before the position it returned."""
    log, positions = opener(), []

    def send(thread: int) -> None:
        for number in range(40):
            records = [b"%d %d %d" % (thread, number, part) for part in range(1 + number % 3)]
            positions.append((log.append(records), records))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.read(START, 50)  # concurrent readers do not interfere
    for thread in threads:
        thread.join()
    by_offset = {(e.partition, e.offset): e.value for batch in read_all(log) for e in batch.entries}
    assert len(by_offset) == sum(len(records) for _, records in positions) == sum(log.end().values())
    for position, records in positions:
        ((partition, until),) = position.items()
        assert records == [by_offset[partition, until - len(records) + n] for n in range(len(records))]


def _write(open_log: Callable[[Path], Log], folder: Path, name: int, count: int) -> None:
    log = open_log(folder)
    for number in range(count):
        log.append([b"%d %d" % (name, number)])


def test_one_process_reads_while_several_write(opener: Opener, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A reader that follows four writer processes gets every record once, in each writer's order."""
    open_log = LOGS[request.node.callspec.params["opener"]]
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(open_log, tmp_path, n, 60)) for n in range(4)]
    for writer in writers:
        writer.start()
    reader, after, seen = opener(), START, []
    deadline = time.monotonic() + 120
    while len(seen) < 240 and time.monotonic() < deadline:
        batch = reader.read(after, 25)
        assert not batch.gaps
        seen += [entry.value for entry in batch.entries]
        after = batch.through
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * 4
    for name in range(4):
        assert [b"%d %d" % (name, n) for n in range(60)] == [v for v in seen if v.startswith(b"%d " % name)]
    assert len(seen) == 240


def test_positions_only_grow(opener: Opener) -> None:
    """Merging positions in any order yields the highest offset of each partition."""
    assert merge({1: 5, 2: 3}, {2: 7}, {3: 1, 1: 2}) == {1: 5, 2: 7, 3: 1}
    assert {} == merge() == merge(START, START)
    log, after = opener(), START
    for number in range(10):
        log.append([b"%d" % number])
        batch = log.read(after, 1)
        assert merge(after, batch.through) == dict(batch.through)
        after = batch.through


def test_an_empty_read_keeps_the_position(opener: Opener) -> None:
    """When there is nothing new the position is unchanged, so a caller can always continue from `through`."""
    log = opener()
    position = log.append([b"a"])
    batch = log.read(position, 10)
    assert not batch
    assert dict(position) == dict(batch.through)


def test_any_sequence_of_reads_returns_the_same_records(opener: Opener) -> None:
    """Whatever the step size, the records and their offsets are the same."""
    log, seed = opener(), 20261124
    print(f"seed {seed}")
    chance = random.Random(seed)
    for number in range(60):
        log.append([b"%d.%d" % (number, part) for part in range(chance.randint(1, 9))])
    whole = [(e.partition, e.offset, e.value) for e in log.read(START, FOREVER).entries]
    for limit in (1, 2, 7, 50, 1000):
        steps = read_all(log, limit=limit)
        assert whole == [(e.partition, e.offset, e.value) for batch in steps for e in batch.entries]


def test_the_disk_watermark_applies_before_the_log_folder_exists(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "not" / "yet", min_free_bytes=1 << 60)
    with pytest.raises(LogFull):
        log.append([b"{}"])
    assert not (tmp_path / "not").exists()
