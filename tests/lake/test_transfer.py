"""Rows that a backfill moves into a table do not change the table's position."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa

from questlog.lake.iceberg import IcebergTables
from questlog.lake.state import read_positions
from questlog.plan.columns import QUARANTINE_TABLE, table_schema
from questlog.plan.load import parse_plan

PLAN = parse_plan('[events.join_guild.fields]\nguild = "string"\n')


def rows(table: str, event_id: str) -> pa.Table:
    row = {"event_id": event_id, "received_time": dt.datetime(2026, 11, 24), "reason": "unknown_type"}
    schema = table_schema(PLAN, table)
    return pa.Table.from_pylist([{name: row[name] for name in row if name in schema.names}], schema=schema)


def test_a_half_landed_batch_keeps_the_plan_that_began_it(tmp_path: Path) -> None:
    tables = IcebergTables(tmp_path / "catalog.db", tmp_path / "lake")
    tables.commit(QUARANTINE_TABLE, rows(QUARANTINE_TABLE, "a"), {0: 1}, "old")
    tables.commit("join_guild", rows("join_guild", "b"), {0: 2}, "old")
    for event_id in "cd":
        tables.transfer({"join_guild": rows("join_guild", event_id)}, QUARANTINE_TABLE, {}, "new", ())
    assert read_positions(tables.state)["join_guild"] == ({0: 2}, "old")
    tables.commit("join_guild", rows("join_guild", "e"), {0: 3}, "new")
    assert read_positions(tables.state)["join_guild"] == ({0: 3}, "new")
    tables.close()
