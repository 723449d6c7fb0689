"""The next batch to land: bounded, and exact when a half-landed one must be completed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from questlog.land import reader
from questlog.land.reader import read_batch
from questlog.log import Batch, Entry, Gap, Position


@dataclass
class Pages:
    """A log in memory that returns one partition after another, as the embedded log does."""

    partitions: dict[int, list[bytes]]
    gaps: Sequence[Gap] = ()
    reads: list[int] = field(default_factory=list)

    def read(self, after: Position, limit: int, max_bytes: int = 0) -> Batch:
        self.reads.append(limit)
        through, entries = dict(after), []
        for partition, values in self.partitions.items():
            start = through.get(partition, 0)
            part = values[start : start + max(0, limit - len(entries))]
            entries += [Entry(partition, start + i, value, 1) for i, value in enumerate(part)]
            if part:
                through[partition] = start + len(part)
        gaps = [g for g in self.gaps if after.get(g.partition, 0) <= g.first]
        return Batch(entries, through, gaps if entries else ())


def places(batch: Batch) -> list[tuple[int, int]]:
    return [(e.partition, e.offset) for e in batch.entries]


def test_a_batch_is_bounded_in_records() -> None:
    log = Pages({0: [b"x"] * 30})
    batch = read_batch(log, {0: 5}, 10)  # type: ignore[arg-type]
    assert (places(batch), batch.through) == ([(0, i) for i in range(5, 15)], {0: 15})


def test_a_batch_is_bounded_in_bytes(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Large events make small batches, so that memory stays bounded."""
    monkeypatch.setattr(reader, "BATCH_BYTES", 100)
    monkeypatch.setattr(reader, "_READ_RECORDS", 2)
    batch = read_batch(Pages({0: [b"x" * 40] * 30}), {}, 1000)  # type: ignore[arg-type]
    assert len(batch.entries) == 4


def test_a_half_landed_batch_is_read_exactly_however_much_was_logged_since() -> None:
    """The first partition's new backlog must not push the second's old records out of the batch."""
    log = Pages({0: [b"x"] * 9_000, 1: [b"y"] * 3})
    batch = read_batch(log, {}, 4, {0: 2, 1: 3})  # type: ignore[arg-type]
    assert places(batch) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert batch.through == {0: 2, 1: 3}


def test_records_beyond_a_half_landed_batch_are_left_for_the_next() -> None:
    log = Pages({0: [b"x"] * 10})
    batch = read_batch(log, {0: 3}, 100, {0: 5})  # type: ignore[arg-type]
    assert (places(batch), batch.through) == ([(0, 3), (0, 4)], {0: 5})


def test_only_the_part_of_a_gap_that_belongs_to_the_batch_is_counted() -> None:
    log = Pages({0: [b"x"] * 10}, [Gap(0, 3, 8, "lost", 1)])
    batch = read_batch(log, {0: 3}, 100, {0: 5})  # type: ignore[arg-type]
    assert [(g.first, g.until) for g in batch.gaps] == [(3, 5)]


def test_an_empty_log_is_an_empty_batch() -> None:
    assert not read_batch(Pages({}), {}, 10)  # type: ignore[arg-type]
