"""How a Spark worker reads the topic's rows: with sequences and gaps in headers, or plain records without headers."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from questlog.land.spark.workers import Target, Task, read_records, shape_task
from questlog.log import Entry, Gap
from questlog.plan.columns import QUARANTINE_TABLE, table_schema
from questlog.plan.load import parse_plan

Headers = list[tuple[str, bytes | None]] | None
PLAN = '[events.join_guild.fields]\nguild = "string"\n'


def batch(*rows: tuple[int, int, bytes | None, Headers]) -> pa.RecordBatch:
    """Return rows as Spark's Kafka source gives them."""
    headers = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
    schema = pa.schema(
        [("value", pa.binary()), ("partition", pa.int32()), ("offset", pa.int64()), ("ms", pa.int64())]
    ).append(pa.field("headers", headers))
    return pa.RecordBatch.from_pylist(
        [
            {
                "value": value, "partition": partition, "offset": offset, "ms": 1_795_000_000_000,
                "headers": None if said is None else [{"key": k, "value": v} for k, v in said],
            }
            for partition, offset, value, said in rows
        ],
        schema,
    )  # fmt: skip


def spooled(sequence: int, *more: tuple[str, bytes | None]) -> Headers:
    return [("spool", b"a0"), ("sequence", str(sequence).encode()), *more]


def test_a_landed_sequence_is_dropped_and_a_gap_is_counted() -> None:
    rows = batch(
        (0, 7, b"again", spooled(3)), (0, 8, b"new", spooled(4)), (0, 9, b"why", spooled(5, ("gap", b"2"))),
        (1, 0, None, None), (1, 1, b"plain", []), (1, 2, b"odd", [("spool", b"b0"), ("sequence", None)]),
    )  # fmt: skip
    for found in (read_records([rows], {"a0": 4}), read_records([rows.slice(0, 2), rows.slice(2)], {"a0": 4})):
        ms = 1_795_000_000_000
        assert [
            Entry(0, 8, b"new", ms), Entry(1, 0, b"", ms), Entry(1, 1, b"plain", ms), Entry(1, 2, b"odd", ms),
        ] == found.entries  # fmt: skip
        assert [Gap(0, 9, 10, "why", ms)] == found.gaps
        assert found.through == {0: 10, 1: 3}
        assert found.spools == {"a0": 6}
        assert (found.resent, found.lost) == (1, 2)


def test_a_batch_becomes_one_parquet_file_per_table_and_its_counts() -> None:
    """The file has all columns of the table, also those of an older plan."""
    plan = parse_plan(PLAN)
    wider = table_schema(plan, "join_guild").append(pa.field("old", pa.int32()))
    targets = {"join_guild": Target(wider), QUARANTINE_TABLE: Target(table_schema(plan, QUARANTINE_TABLE))}
    rows = batch((0, 0, b'{"event_type": "join_guild", "guild": "wolves"}', None), (0, 1, b"?", None))
    (answer,) = shape_task(Task(plan.text, targets, {}, {}, 1_795_000_000_000), [rows])
    found = {row["name"]: row for row in answer.to_pylist()}
    assert json.loads(found[""]["file"])["records"] == 2
    table = pq.read_table(pa.BufferReader(found["join_guild"]["file"]))
    assert wider.names == table.column_names
    assert table.column("guild").to_pylist() == ["wolves"]
    assert found[QUARANTINE_TABLE]["rows"] == 1
