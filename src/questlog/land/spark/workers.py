"""What runs in Spark's Python workers: the topic's records -> shaped rows, by the same `shape` as everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa

from questlog.lake.parquet import aligned, parquet_bytes, split_by_day
from questlog.land.landed_time import with_landed_time
from questlog.log import Entry, Gap, Position
from questlog.log.kafka.wire import GAP, SEQUENCE, SPOOL
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import Occurrence, shape

FILES = "name string, day int, rows long, file binary"
"""What `shape_task` returns: one row per Parquet file of a table, and one named "" with the counts as JSON."""
ROWS = "name string, rows binary"
"""What `shape_again` returns: one row named "" with the counts as JSON, then one per table, as an Arrow stream."""
_FILE = pa.schema([("name", pa.string()), ("day", pa.int32()), ("rows", pa.int64()), ("file", pa.binary())])


@dataclass(frozen=True, slots=True)
class Target:
    """How rows of a table are written: its columns with Iceberg's ids, and those it has under another name."""

    schema: pa.Schema
    moved: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker of the lander needs: the plan, the tables with what each already holds, the landed sequences.

    `seen` has ids that clients chose and that were first seen elsewhere.
    """

    plan: str
    targets: Mapping[str, Target]
    committed: Mapping[str, Position]
    spools: Mapping[str, int]
    now_ms: int
    seen: Mapping[str, Occurrence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BackfillTask:
    """What a worker of a backfill needs: the plan, the next sequence of each spool, where known ids came first."""

    plan: str
    spools: Mapping[str, int]
    seen: Mapping[str, Occurrence] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a batch of the topic, without those that were sent again."""

    entries: list[Entry]
    gaps: list[Gap]
    through: Position
    spools: Mapping[str, int]
    resent: int
    lost: int


_plan: Callable[[str], Plan] = lru_cache(maxsize=8)(parse_plan)


def shape_task(task: Task, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Shape one whole batch into files, partition by partition.

    A function of a module, so that Spark sends only its name.
    """
    plan = _plan(task.plan)
    records = read_records(batches, task.spools)
    shaped = shape(records.entries, plan, committed=task.committed, seen=task.seen.get, gaps=records.gaps)
    counts = {
        "through": dict(records.through), "spools": dict(records.spools), "resent": records.resent,
        "lost": records.lost, "records": len(records.entries), "duplicate": shaped.duplicates, "seen": shaped.seen,
    }  # fmt: skip
    files: list[tuple[str, int | None, int, bytes]] = [("", None, 0, json.dumps(counts).encode())]
    for name, rows in shaped.tables.items():
        target = task.targets[name]
        rows = aligned(with_landed_time(rows, task.now_ms), target.schema, target.moved)
        files += [(name, day, part.num_rows, parquet_bytes(part)) for day, part in split_by_day(rows)]
    yield pa.RecordBatch.from_pylist([dict(zip(_FILE.names, file, strict=True)) for file in files], _FILE)


def shape_again(task: BackfillTask, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Shape this worker's share of a backfill into rows. A function of a module, so that Spark sends only its name."""
    records = read_records(batches, task.spools)
    shaped = shape(records.entries, _plan(task.plan), seen=task.seen.get, gaps=records.gaps)
    counts = {
        "records": len(records.entries), "duplicate": shaped.duplicates, "spools": dict(records.spools),
        "seen": shaped.seen,
    }  # fmt: skip
    blobs = [json.dumps(counts).encode(), *map(_arrow_stream, shaped.tables.values())]
    yield pa.RecordBatch.from_arrays([pa.array(["", *shaped.tables]), pa.array(blobs, pa.binary())], ["name", "rows"])


def read_records(batches: Iterable[pa.RecordBatch], spools: Mapping[str, int]) -> Records:
    """Return the records in the topic's rows, without those whose sequence is already landed.

    *spools* maps a spool partition to the sequence that comes next. Which records are repeats depends only on that
    and on the records before them: a batch that is read again gives the same result.
    """
    entries, gaps, through, following = list[Entry](), list[Gap](), dict[int, int](), dict(spools)
    resent = lost = 0
    for batch in batches:
        for partition, offset, value, received_ms, spool, sequence, length in _rows(batch):
            through[partition] = max(offset + 1, through.get(partition, 0))
            if spool is not None and sequence.isdigit():
                name, after = spool.decode("utf-8", "replace"), int(sequence) + 1
                if after <= following.get(name, 0):
                    resent += 1
                    continue
                following[name] = after
            if length is not None and length.isdigit():
                lost += int(length)
                gaps.append(Gap(partition, offset, offset + 1, value.decode("utf-8", "replace"), received_ms))
            else:
                entries.append(Entry(partition, offset, value, received_ms))
    return Records(entries, gaps, through, following, resent, lost)


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[int, int, bytes, int, bytes | None, bytes, bytes | None]]:
    """Yield partition, offset, value, received time, and the headers spool, sequence and gap.

    The headers of all rows are read as two columns: a dictionary per row takes four times as long.
    """
    if not batch.num_rows:
        return
    headers = batch.column("headers")
    ends, keys = headers.offsets.to_pylist(), headers.values.field("key").to_pylist()
    values: list[bytes | None] = headers.values.field("value").to_pylist()
    columns = [batch.column(name).to_pylist() for name in ("partition", "offset", "value", "ms")]
    for index, (partition, offset, value, received_ms) in enumerate(zip(*columns, strict=True)):
        spool, sequence, gap = None, b"", None
        for header in range(ends[index], ends[index + 1]):
            key, content = keys[header], values[header] or b""
            if key == SPOOL:
                spool = content
            elif key == SEQUENCE:
                sequence = content
            elif key == GAP:
                gap = content
        yield partition, offset, value or b"", received_ms, spool, sequence, gap


def _arrow_stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
