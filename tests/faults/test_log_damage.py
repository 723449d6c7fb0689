"""Damaged log files: records outside the damage are delivered, records inside are reported, and none are invented."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from questlog.log import START, Batch
from questlog.log.sqlite import SqliteLog, segment

SEED = int(os.environ.get("QUESTLOG_SEED", "20261124"))
FLIPS = int(os.environ.get("QUESTLOG_DRILL", "0")) or 250
PAGE = segment.PAGE

Records = dict[int, bytes]


def fill(
    folder: Path, *, batches: int, close: bool = True, sizes: Sequence[int] = (1, 1, 2, 5, 200)
) -> tuple[SqliteLog, Records]:
    """Write batches of many sizes, from part of a page to many pages; return the acknowledged records."""
    chance, records, offset = random.Random(SEED), dict[int, bytes](), 0
    log = SqliteLog(folder, min_free_bytes=0)
    for number in range(batches):
        size = chance.choice(sizes)
        lines = [b"%d.%d " % (number, part) + chance.randbytes(40).hex().encode() for part in range(size)]
        log.append(lines)
        records.update({offset + index: line for index, line in enumerate(lines)})
        offset += size
    if close:
        log.close()
    return log, records


def only_segment(folder: Path) -> Path:
    (path,) = folder.glob("*.db")
    return path


def check_reading(folder: Path, records: Records, *, at_most_lost: int) -> set[int]:
    """Return the lost offsets; raise unless every other record is delivered intact and every loss is reported."""
    log = SqliteLog(folder, min_free_bytes=0)
    try:
        delivered, named, after = dict[int, bytes](), set[int](), START
        while batch := log.read(after, 50):
            collect(batch, delivered, named)
            assert batch.through != after
            after = batch.through
        wrong = {offset for offset, value in delivered.items() if records.get(offset) != value}
        lost = set(records) - set(delivered)
        assert not wrong, f"wrong bytes at {sorted(wrong)[:5]}"
        assert lost == named, f"unreported: {sorted(lost - named)[:5]}, yet delivered: {named - lost}"
        assert len(lost) <= at_most_lost, f"{len(lost)} records lost"
        return lost
    finally:
        log.close()


def collect(batch: Batch, delivered: Records, named: set[int]) -> None:
    for entry in batch.entries:
        assert entry.offset not in delivered, f"offset {entry.offset} came twice"
        delivered[entry.offset] = entry.value
    for gap in batch.gaps:
        assert gap.first < gap.until and gap.reason
        named.update(range(gap.first, gap.until))


def flip(path: Path, offset: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def test_a_flipped_byte_costs_at_most_one_batch_and_is_reported(tmp_path: Path) -> None:
    """Any bit pattern anywhere in the file has no effect, or costs the one batch it is in."""
    print(f"seed {SEED}, {FLIPS} flips")
    _, records = fill(tmp_path / "log", batches=80)
    path = only_segment(tmp_path / "log")
    whole, chance, hits = path.read_bytes(), random.Random(SEED), 0
    structure = [page + at for page in range(0, len(whole), PAGE) for at in (*range(0, 12), PAGE - 1)]
    for number in range(FLIPS):
        offset = chance.randrange(len(whole)) if number % 2 else chance.choice([*range(120), *structure])
        mask = chance.randint(1, 255)
        path.write_bytes(whole)
        flip(path, offset, mask)
        try:
            hits += bool(check_reading(tmp_path / "log", records, at_most_lost=200))
        except BaseException as error:
            raise AssertionError(f"byte {offset} ^ {mask}: {error}") from error
    assert hits > FLIPS // 20  # flips do hit records


@pytest.mark.parametrize("open_writer", [False, True], ids=["closed", "still open"])
def test_a_damaged_page_costs_only_its_own_records(tmp_path: Path, open_writer: bool) -> None:
    """Each page in turn is filled with zeros, ones or noise; all other records are still delivered."""
    print(f"seed {SEED}")
    log, records = fill(tmp_path / "log", batches=60, close=not open_writer, sizes=(30,))
    path = only_segment(tmp_path / "log")
    whole, chance = path.read_bytes(), random.Random(SEED)
    pages = range(0, len(whole), PAGE)
    for number, page in enumerate(pages if len(pages) < 60 else chance.sample(pages, 60)):
        content = (bytes(PAGE), b"\xff" * PAGE, chance.randbytes(PAGE))[number % 3]
        path.write_bytes(whole[:page] + content + whole[page + PAGE :])
        check_reading(tmp_path / "log", records, at_most_lost=4 * 30)  # a page holds a few batches of this size
    path.write_bytes(whole)
    log.close()


def test_a_truncated_file_still_delivers_its_remaining_records(tmp_path: Path) -> None:
    """Wherever the file is cut, the remaining records are delivered and the loss is reported: the end is known."""
    print(f"seed {SEED}")
    _, records = fill(tmp_path / "log", batches=80)
    path = only_segment(tmp_path / "log")
    whole, chance = path.read_bytes(), random.Random(SEED)
    for keep in [len(whole) - 1, PAGE * 4, *(chance.randrange(PAGE * 4, len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:keep])
        check_reading(tmp_path / "log", records, at_most_lost=len(records))
    path.write_bytes(whole[: len(whole) * 9 // 10])
    lost = check_reading(tmp_path / "log", records, at_most_lost=len(records) // 4)
    assert lost


@pytest.mark.parametrize("keep", [0, 1, 100, PAGE])
def test_an_almost_empty_file_does_not_block_other_partitions(tmp_path: Path, keep: int) -> None:
    """Readers continue with the other partitions, and writers avoid the broken one."""
    folder = tmp_path / "log"
    fill(folder, batches=10)
    broken = only_segment(folder)
    broken.write_bytes(broken.read_bytes()[:keep])
    log = SqliteLog(folder, min_free_bytes=0)
    position = log.append([b"fresh"])
    assert [entry.value for entry in log.read(START, 1000).entries if entry.partition in position] == [b"fresh"]
    assert str(*position) not in broken.name
    log.close()


def test_a_missing_wal_never_yields_wrong_records(tmp_path: Path) -> None:
    """Without its WAL a file is in an earlier state: it yields a prefix of the records, never an exception."""
    _, records = fill(tmp_path / "log", batches=150, close=False)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(only_segment(tmp_path / "log"), copy)
    log = SqliteLog(copy, min_free_bytes=0)
    delivered = {entry.offset: entry.value for entry in log.read(START, 2**40).entries}
    assert delivered.items() <= records.items()
    assert sorted(delivered) == list(range(len(delivered)))
    log.close()


def test_a_reader_skips_damage_in_a_file_that_is_still_written(tmp_path: Path) -> None:
    """No record acknowledged after the damage is lost, and no intact record is reported as lost."""
    print(f"seed {SEED}")
    folder, chance = tmp_path / "log", random.Random(SEED)
    log, records = fill(folder, batches=400, close=False)
    path = only_segment(folder)
    for _ in range(20):
        flip(path, chance.randrange(path.stat().st_size), 255)
    reader, after, delivered, named = SqliteLog(folder, min_free_bytes=0), START, dict[int, bytes](), set[int]()
    for number in range(200):
        position = log.append([b"later %d" % number])
        ((partition, until),) = position.items()
        if partition == int(path.name[:10]):
            records[until - 1] = b"later %d" % number
    while batch := reader.read(after, 100):
        for entry in batch.entries:
            if entry.partition == int(path.name[:10]):
                delivered[entry.offset] = entry.value
        named.update(*(range(gap.first, gap.until) for gap in batch.gaps))
        after = batch.through
    assert delivered.items() <= records.items()
    assert set(records) - set(delivered) == named
    assert len(delivered) > len(records) // 3
    reader.close()
    log.close()


def test_a_writer_abandons_a_partition_whose_end_is_damaged(tmp_path: Path) -> None:
    """No offset is assigned twice: where the end is in doubt, the writer starts a new partition."""
    folder = tmp_path / "log"
    _, records = fill(folder, batches=60)
    path = only_segment(folder)
    whole = path.read_bytes()
    tried = 0
    for page in range(1, len(whole) // PAGE):
        if whole[page * PAGE] != 0x0D:
            continue
        tried += 1
        cells = int.from_bytes(whole[page * PAGE + 3 : page * PAGE + 5], "big")
        shorter = (cells - 1).to_bytes(2, "big")  # hide the page's last row, as a flipped bit can
        path.write_bytes(whole[: page * PAGE + 3] + shorter + whole[page * PAGE + 5 :])
        copy = tmp_path / f"copy{page}"
        shutil.copytree(folder, copy)
        log = SqliteLog(copy, min_free_bytes=0)
        ((partition, until),) = log.append([b"fresh"]).items()
        assert partition != int(path.name[:10]) or until == len(records) + 1
        log.close()
    assert tried > 3


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "checksum ignored": lambda patch: patch.setattr(segment, "is_intact", lambda row: True),
    "end ignored": lambda patch: patch.setattr(
        "questlog.log.sqlite.segment.read_tail",
        lambda c: c.execute("select coalesce(max(first + count), 0) from batches").fetchone()[0],
    ),
    "reading stops at the damage": lambda patch: patch.setattr(
        "questlog.log.sqlite.reader._salvaged", lambda *arguments: iter(())
    ),
}


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_the_damage_tests_detect_a_log_without_its_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    """A test of the tests: with one of the log's checks removed, some flipped bit goes unreported."""
    MUTANTS[mutant](monkeypatch)
    _, records = fill(tmp_path / "log", batches=60)
    path = only_segment(tmp_path / "log")
    whole, chance, caught = path.read_bytes(), random.Random(SEED), 0
    leaves = [page for page in range(0, len(whole), PAGE) if whole[page] == 0x0D]
    for number in range(60):
        path.write_bytes(whole)
        flip(path, chance.choice(leaves) + 4 if number % 2 else chance.randrange(len(whole)), 1)
        try:
            check_reading(tmp_path / "log", records, at_most_lost=200)
        except Exception:
            caught += 1
    assert caught
