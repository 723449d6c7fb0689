"""What a backfill runs in Spark's Python workers: records -> rows, by the lander's reader and the same `shape`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import pyarrow as pa

from questlog.land.spark.workers import read_records
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import Place, shape

RESULT = "name string, rows binary"
"""What a worker returns: one row named "" with the counts as JSON, then one per table, as an Arrow stream."""


@dataclass(frozen=True, slots=True)
class Again:
    """All a worker needs to know: the plan, the sequence each spool goes on with, where known ids came first."""

    plan: str
    spools: Mapping[str, int]
    seen: Mapping[str, Place] = field(default_factory=dict)


_plan: Callable[[str], Plan] = lru_cache(maxsize=8)(parse_plan)


def shape_again(task: Again, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Shape what this worker has of a part; a module's own function, so that Spark sends only its name."""
    read = read_records(batches, task.spools)
    shaped = shape(read.entries, _plan(task.plan), seen=task.seen.get, gaps=read.gaps)
    counts = {
        "records": len(read.entries), "duplicate": shaped.duplicates, "spools": dict(read.spools), "seen": shaped.seen,
    }  # fmt: skip
    blobs = [json.dumps(counts).encode(), *map(_stream, shaped.tables.values())]
    yield pa.RecordBatch.from_arrays([pa.array(["", *shaped.tables]), pa.array(blobs, pa.binary())], ["name", "rows"])


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
