"""The Presto engine without a server: accepted statements, parameters as literals, types, addresses."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import pytest

from questlog.errors import QueryError, QuestlogError
from questlog.plan import Plan
from questlog.query.presto import check_reads, open_engine, with_values
from questlog.query.presto.client import PrestoServer
from questlog.query.presto.types import SqlType, arrow_table, parse_type


def no_plan() -> Plan:
    raise AssertionError


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("varchar(3)", SqlType("varchar", numbers=(3,))),
        ("timestamp(3) with time zone", SqlType("timestamp with time zone", numbers=(3,))),
        ("array(decimal(12,2))", SqlType("array", (SqlType("decimal", numbers=(12, 2)),))),
        (
            'row(a bigint, "odd ""name)" map(varchar, double))',
            SqlType(
                "row",
                (SqlType("bigint"), SqlType("map", (SqlType("varchar"), SqlType("double")))),
                ("a", 'odd "name)'),
            ),
        ),
    ],
)
def test_the_text_of_a_type_is_parsed(text: str, tree: SqlType) -> None:
    assert parse_type(text) == tree


def test_a_zoned_time_is_converted_to_utc() -> None:
    table = arrow_table([("at", "timestamp with time zone")], [["2026-03-01 01:02:03.004 +01:00"], [None]])
    assert table.column(0).to_pylist() == [dt.datetime(2026, 3, 1, 0, 2, 3, 4000, dt.UTC), None]


def test_duplicate_column_names_are_kept() -> None:
    assert arrow_table([("n", "bigint"), ("n", "bigint")], [[1, 2]]).num_columns == 2


@pytest.mark.parametrize(
    "statement",
    [
        "drop table t", "explain analyze drop table t", "explain (type io) insert into t select 1",
        "/* select */ drop table t",
        "explain analyze verbose delete from t", "call x()", "explain", "-- select 1", "selection", "use x",
        "-- x\rdelete from t where 1 = 1 /*\nselect 1 */", "/* /* */ delete from t -- */ select 1",
    ],
)  # fmt: skip
def test_a_statement_that_may_write_is_refused(statement: str) -> None:
    with pytest.raises(QueryError):
        check_reads(statement)


@pytest.mark.parametrize(
    "statement", ["select 1", "((select 1))", "with a as (select 1) select * from a", "explain (type io) select 1",
                  "explain analyze select 1", "/* drop */ values 1", "table t", "show functions"],
)  # fmt: skip
def test_a_statement_that_reads_is_accepted(statement: str) -> None:
    check_reads(statement)


def test_parameters_are_replaced_only_outside_quotes_and_comments() -> None:
    text = "select ?, '?', \"?\", -- ?\n ? /* ? */"
    assert with_values(text, ["it's", 1]) == "select 'it''s', '?', \"?\", -- ?\n 1 /* ? */"


@pytest.mark.parametrize(
    ("text", "params"), [("select ?", {}), ("select ?, ?", [1]), ("select $a", {"b": 1}), ("select 1", [1])]
)
def test_a_missing_or_unused_parameter_is_an_error(text: str, params: Mapping[str, object]) -> None:
    if not params:
        assert with_values(text, params) == text
        return
    with pytest.raises(QueryError):
        with_values(text, params)


def test_an_invalid_address_is_refused_with_an_example() -> None:
    for url in ("localhost:8080", "http://ann:secret@host", "ftp://host"):
        with pytest.raises(QuestlogError, match="is not a valid address") as refused:
            open_engine({"url": url}, "s", no_plan)
        assert "secret" not in f"{refused.value} {refused.value.hint}"
    with pytest.raises(QuestlogError, match="unknown setting pasword"):
        open_engine({"pasword": "x"}, "s", no_plan)


def test_a_missing_authority_file_is_reported_with_its_setting(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        options = {"url": "https://127.0.0.1:9", "ca.location": str(tmp_path / name)}
        with pytest.raises(QueryError, match=rf"ca.location: .*{name}: .+"):
            open_engine(options, "s", no_plan).sql("select 1")


def test_the_address_selects_trino_or_presto() -> None:
    trino = PrestoServer("trino+https://host:8443", "iceberg", "s", "ann", "secret").headers()
    assert trino["X-Trino-User"] == "ann" and trino["Authorization"].startswith("Basic ")
    assert PrestoServer("http://host", "iceberg", "s").headers()["X-Presto-Time-Zone"] == "UTC"
