"""Every `Tables` commits rows and position together, all or nothing, once."""

import datetime as dt
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import StaticTable

from questlog.lake import Tables
from questlog.lake.iceberg import IcebergTables
from questlog.plan.columns import table_schema
from questlog.plan.load import parse_plan

PLAN = """
[events.join_guild]
description = "A player joined."
[events.join_guild.fields]
guild = { type = "string", description = "Which guild." }
level = "int"
gold = "decimal(9,2)"
tags = "list<string>"
stats = "struct<hp:int,at:timestamp>"
scores = "map<string,float>"
born = "date"
"""
DAY = dt.datetime(2026, 11, 24, 10)
VALUES: dict[str, Any] = {
    "guild": "wolves",
    "level": 7,
    "gold": "12.50",
    "tags": ["a", None],
    "stats": {"hp": 3, "at": DAY},
    "scores": [("x", 0.5)],
    "born": dt.date(2000, 2, 29),
}

Open = Callable[[], Tables]


def rows_of(plan_text: str, *ids: str, table: str = "join_guild", time: dt.datetime = DAY, **values: Any) -> pa.Table:
    """Return rows as `shape` produces them: the columns of the plan, one row per id."""
    schema = table_schema(parse_plan(plan_text), table)
    row = {"event_type": table, "event_time": time, "received_time": time, **values}
    if "gold" in schema.names and isinstance(row.get("gold"), str):
        row["gold"] = __import__("decimal").Decimal(row["gold"])
    return pa.Table.from_pylist([{**row, "event_id": event_id} for event_id in ids], schema=schema)


@pytest.fixture(params=["iceberg"])
def open_tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens the same tables again, as another process would."""
    opened: list[IcebergTables] = []

    def open_() -> Tables:
        opened.append(IcebergTables(tmp_path / "catalog.db", tmp_path / "lake"))
        return opened[-1]

    yield open_
    for tables in opened:
        tables.close()


def contents(tables: Tables, table: str = "join_guild") -> list[dict[str, Any]]:
    """Return all rows of the files that a reader may open."""
    return [row for path in tables.files(table) for row in pq.read_table(path).to_pylist()]


def test_a_table_that_does_not_exist_is_at_the_start_and_has_no_files(open_tables: Open) -> None:
    tables = open_tables()
    assert (tables.position("join_guild"), list(tables.files("join_guild"))) == ({}, [])


def test_rows_and_position_become_visible_together(open_tables: Open) -> None:
    open_tables().commit("join_guild", rows_of(PLAN, "a", "b", **VALUES), {0: 2}, "v1")
    again = open_tables()
    assert again.position("join_guild") == {0: 2}
    assert [row["event_id"] for row in contents(again)] == ["a", "b"]


def test_every_type_is_read_back_unchanged(open_tables: Open) -> None:
    rows = rows_of(PLAN, "a", **VALUES)
    open_tables().commit("join_guild", rows, {0: 1}, "v1")
    assert contents(open_tables()) == rows.to_pylist()


def test_positions_only_grow_element_by_element(open_tables: Open) -> None:
    tables = open_tables()
    tables.commit("join_guild", rows_of(PLAN, "a"), {0: 5, 1: 1}, "v1")
    tables.commit("join_guild", rows_of(PLAN, "b"), {0: 3, 2: 4}, "v1")
    assert tables.position("join_guild") == {0: 5, 1: 1, 2: 4}


def test_two_openers_see_each_others_commits(open_tables: Open) -> None:
    first, second = open_tables(), open_tables()
    first.commit("join_guild", rows_of(PLAN, "a"), {0: 1}, "v1")
    assert second.position("join_guild") == {0: 1}
    second.commit("join_guild", rows_of(PLAN, "b"), {0: 2}, "v1")
    first.commit("join_guild", rows_of(PLAN, "c"), {0: 3}, "v1")
    assert {row["event_id"] for row in contents(first)} == {"a", "b", "c"}


def test_tables_do_not_share_rows_or_positions(open_tables: Open) -> None:
    tables = open_tables()
    tables.commit("join_guild", rows_of(PLAN, "a"), {0: 1}, "v1")
    tables.commit("other", rows_of(PLAN, "b", table="other"), {0: 2}, "v1")
    assert (tables.position("join_guild"), tables.position("other")) == ({0: 1}, {0: 2})
    assert [r["event_id"] for r in contents(tables, "other")] == ["b"]


def test_a_failed_commit_leaves_the_table_as_it_was(open_tables: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = open_tables()
    tables.commit("join_guild", rows_of(PLAN, "a"), {0: 1}, "v1")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(Exception, match="No space left"):
        tables.commit("join_guild", rows_of(PLAN, "b"), {0: 2}, "v1")
    monkeypatch.undo()
    assert (tables.position("join_guild"), [r["event_id"] for r in contents(tables)]) == ({0: 1}, ["a"])
    tables.commit("join_guild", rows_of(PLAN, "b"), {0: 2}, "v1")
    assert sorted(r["event_id"] for r in contents(open_tables())) == ["a", "b"]


def test_many_commits_keep_every_row_once_and_the_position(open_tables: Open) -> None:
    tables = open_tables()
    for number in range(1, 26):
        tables.commit("join_guild", rows_of(PLAN, f"e{number}"), {0: number}, "v1")
    again = open_tables()
    assert again.position("join_guild") == {0: 25}
    assert sorted(r["event_id"] for r in contents(again)) == sorted(f"e{n}" for n in range(1, 26))


def test_rows_of_several_days_are_all_kept(open_tables: Open) -> None:
    tables = open_tables()
    days = [rows_of(PLAN, f"d{n}", time=DAY + dt.timedelta(days=n)) for n in range(3)]
    tables.commit("join_guild", pa.concat_tables(days), {0: 3}, "v1")
    assert sorted(r["event_id"] for r in contents(tables)) == ["d0", "d1", "d2"]
    assert len(tables.files("join_guild")) == 3


class TestIcebergReadBack:
    """The tables are standard Iceberg v2: PyIceberg reads them without questlog."""

    @pytest.fixture
    def catalog(self, open_tables: Open, tmp_path: Path) -> SqlCatalog:
        tables = open_tables()
        for number in range(1, 24):
            tables.commit("join_guild", rows_of(PLAN, f"e{number}", **VALUES), {0: number}, "v1")
        return SqlCatalog("questlog", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=str(tmp_path / "lake"))

    def test_plain_pyiceberg_lists_and_scans_the_tables(self, catalog: SqlCatalog) -> None:
        assert catalog.list_tables("questlog") == [("questlog", "join_guild")]
        scanned = catalog.load_table(("questlog", "join_guild")).scan().to_arrow().to_pylist()
        assert sorted(row["event_id"] for row in scanned) == sorted(f"e{n}" for n in range(1, 24))
        assert [scanned[0][name] for name in ("guild", "level", "born", "stats")] == [
            VALUES[name] for name in ("guild", "level", "born", "stats")
        ]

    def test_a_table_can_be_read_from_its_metadata_file_alone(self, catalog: SqlCatalog) -> None:
        location = catalog.load_table(("questlog", "join_guild")).metadata_location
        assert StaticTable.from_metadata(location).scan().count() == 23

    def test_format_partitioning_codec_comments_and_totals_are_as_promised(self, catalog: SqlCatalog) -> None:
        table = catalog.load_table(("questlog", "join_guild"))
        assert table.metadata.format_version == 2
        assert [(f.name, str(f.transform)) for f in table.spec().fields] == [("received_day", "day")]
        assert table.schema().find_field("guild").doc == "Which guild."
        summary = table.current_snapshot().summary
        assert (summary["total-records"], summary["total-data-files"]) == ("23", "23")
        file = table.inspect.files().to_pylist()[0]
        assert pq.ParquetFile(file["file_path"]).metadata.row_group(0).column(0).compression == "ZSTD"

    def test_files_are_pruned_by_time_and_their_bounds_contain_no_player_data(self, catalog: SqlCatalog) -> None:
        table = catalog.load_table(("questlog", "join_guild"))
        assert table.scan("received_time < '2026-11-24T10:00:00'").count() == 0
        assert table.scan("received_time >= '2026-11-24T10:00:00'").count() == 23
        ids = {table.schema().find_field(name).field_id for name in ("received_time", "event_time")}
        for entry in table.inspect.entries().to_pylist():
            assert {key for key, _ in entry["data_file"]["lower_bounds"]} == ids

    def test_landing_continues_after_another_engine_has_appended(self, catalog: SqlCatalog, tmp_path: Path) -> None:
        """A foreign commit carries no position. Neither our position nor its rows may be lost."""
        table = catalog.load_table(("questlog", "join_guild"))
        table.append(rows_of(PLAN, "foreign"))
        with sqlite3.connect(tmp_path / "catalog.db") as connection:
            connection.execute("insert into questlog_lander values (1, 1, 0, '', 0, 1)")
        ours = IcebergTables(tmp_path / "catalog.db", tmp_path / "lake", epoch=1)
        assert ours.position("join_guild") == {0: 23}
        ours.commit("join_guild", rows_of(PLAN, "ours"), {0: 24}, "v1")
        assert catalog.load_table(("questlog", "join_guild")).scan().count() == 25
        paths = ours.state.execute("select count(*), sum(rows) from questlog_files").fetchone()
        assert paths == (25, 25)
        ours.close()
