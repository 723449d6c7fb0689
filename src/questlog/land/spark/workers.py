"""What runs in Spark's Python workers: the topic's records -> shaped tables, by the same `shape` as everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa

from questlog.lake.parquet import aligned, parquet_bytes, split_by_day
from questlog.land.moment import landed_at
from questlog.log import Entry, Gap, Position
from questlog.log.kafka.wire import GAP, SEQUENCE, SPOOL
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import Place, shape

RESULT = "name string, day int, rows long, file binary"
"""What a worker returns: one row per Parquet file of a table, and one named "" with the counts as JSON."""
_FILE = pa.schema([("name", pa.string()), ("day", pa.int32()), ("rows", pa.int64()), ("file", pa.binary())])


@dataclass(frozen=True, slots=True)
class Target:
    """How rows of a table are written: its columns with Iceberg's ids, and those it has under another name."""

    schema: pa.Schema
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """All a worker needs to know: the plan, the tables and what each holds, the highest sequences, ids sent before."""

    plan: str
    targets: Mapping[str, Target]
    held: Mapping[str, Position]
    spools: Mapping[str, int]
    now_ms: int
    seen: Mapping[str, Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Read:
    """What a batch of the topic holds, without what was sent again."""

    entries: list[Entry]
    gaps: list[Gap]
    through: Position
    spools: Mapping[str, int]
    resent: int
    lost: int


_plan: Callable[[str], Plan] = lru_cache(maxsize=8)(parse_plan)


def shape_task(task: Task, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Shape one whole batch, partition by partition; a module's own function, so that Spark sends only its name."""
    plan = _plan(task.plan)
    read = read_records(batches, task.spools)
    shaped = shape(read.entries, plan, held=task.held, seen=task.seen.get, gaps=read.gaps)
    counts = {
        "through": dict(read.through), "spools": dict(read.spools), "resent": read.resent, "lost": read.lost,
        "records": len(read.entries), "duplicate": shaped.duplicates, "seen": shaped.seen,
    }  # fmt: skip
    found: list[tuple[str, int | None, int, bytes]] = [("", None, 0, json.dumps(counts).encode())]
    for name, rows in shaped.tables.items():
        target = task.targets[name]
        for day, part in split_by_day(aligned(landed_at(rows, task.now_ms), target.schema, target.moved)):
            found.append((name, day, part.num_rows, parquet_bytes(part)))
    yield pa.RecordBatch.from_pylist([dict(zip(_FILE.names, row, strict=True)) for row in found], _FILE)


def read_records(batches: Iterable[pa.RecordBatch], spools: Mapping[str, int]) -> Read:
    """Return the records of the topic's rows, without those of a sequence that their spool has passed.

    *spools* maps a spool partition to the sequence it goes on with. Which records are repeats depends on
    nothing but that and what stands before them: a batch that is read again is judged the same again.
    """
    entries, gaps, through, known = list[Entry](), list[Gap](), dict[int, int](), dict(spools)
    resent = lost = 0
    for batch in batches:
        for partition, offset, value, received_ms, spool, sequence, length in _rows(batch):
            through[partition] = max(offset + 1, through.get(partition, 0))
            if spool is not None and sequence.isdigit():
                name, following = spool.decode("utf-8", "replace"), int(sequence) + 1
                if following <= known.get(name, 0):
                    resent += 1
                    continue
                known[name] = following
            if length is not None and length.isdigit():
                lost += int(length)
                gaps.append(Gap(partition, offset, offset + 1, value.decode("utf-8", "replace"), received_ms))
            else:
                entries.append(Entry(partition, offset, value, received_ms))
    return Read(entries, gaps, through, known, resent, lost)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[int, int, bytes, int, bytes | None, bytes, bytes | None]]:
    """Yield partition, offset, value, received time, and the headers spool, sequence and gap.

    The headers of all rows are taken as two columns: a dictionary per row takes four times as long.
    """
    if not batch.num_rows:
        return
    headers = batch.column("headers")
    ends, keys = headers.offsets.to_pylist(), headers.values.field("key").to_pylist()
    values: list[bytes | None] = headers.values.field("value").to_pylist()
    columns = [batch.column(name).to_pylist() for name in ("partition", "offset", "value", "ms")]
    for index, (partition, offset, value, received_ms) in enumerate(zip(*columns, strict=True)):
        spool, sequence, gap = None, b"", None
        for place in range(ends[index], ends[index + 1]):
            key, said = keys[place], values[place] or b""
            if key == SPOOL:
                spool = said
            elif key == SEQUENCE:
                sequence = said
            elif key == GAP:
                gap = said
        yield partition, offset, value or b"", received_ms, spool, sequence, gap
