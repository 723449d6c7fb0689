"""The contract of every `QueryEngine`: each event once, typed, with the plan's descriptions, and read-only.

tests/cluster/test_presto_contract.py runs it on Presto. To test another engine, add a row to ENGINES.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from questlog.errors import QueryError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record, new_id

PLAN = """
[events.purchase]
description = "A player bought something."
table = "purchases"
[events.purchase.fields]
item = { type = "string", description = "What was bought." }
price = { type = "decimal(12,2)", description = "What it cost." }
tags = "list<string>"

[events.join_guild.fields]
guild = "string"
"""
PURCHASE = b'{"event_type": "purchase", "player_id": "ann", "item": "sword", "price": "9.99", "tags": ["a", "b"]}'
GUILD = b'{"event_type": "join_guild", "player_id": "bob", "guild": "wolves"}'
BAD = b'{"event_type": "purchase", "price": "much"}'
Open = Callable[[float], Any]
"""Time limit of a statement in seconds -> an engine over three purchases, two guild joins and a bad event."""


def open_game(folder: Path) -> Pipeline:
    """Return a project with half of its events landed and half in the tail."""
    (folder / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(folder)
    for bodies in ((PURCHASE, GUILD, BAD), (PURCHASE, PURCHASE, GUILD)):
        with pipeline.lander() as lander:
            lander.drain()
        now = time.time_ns() // 1_000_000
        pipeline.log.append([encode_record(b, id=new_id(), received_ms=now, headers={"Host": "h"}) for b in bodies])
    return pipeline


def open_duckdb(folder: Path) -> Iterator[Open]:
    """Open the engine of the embedded profile."""
    pipelines = [open_game(folder)]

    def engine(seconds: float) -> Any:
        pipelines.append(open_pipeline(folder, query_seconds=seconds))
        return pipelines[-1].engine

    yield engine
    for pipeline in pipelines:
        pipeline.close()
        pipeline.log.close()


ENGINES = {"duckdb": open_duckdb}
"""Name -> generator that takes a folder and yields the function that opens the engine."""


@pytest.fixture(scope="module", params=sorted(ENGINES))
def open_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    yield from ENGINES[request.param](tmp_path_factory.mktemp("game"))


@pytest.fixture
def engine(open_engine: Open) -> Any:
    return open_engine(60)


# -- what is answered ----------------------------------------------------------------------------


def test_values_are_returned_as_they_were_sent(engine: Any) -> None:
    rows = engine.run("select player_id, item, price, tags, host from purchases").rows()
    assert rows == [("ann", "sword", Decimal("9.99"), ["a", "b"], "h")] * 3


def test_the_view_events_holds_every_type(engine: Any) -> None:
    question = "select event_type, count(*) from events group by 1 order by 1"
    assert engine.run(question).rows() == [("join_guild", 2), ("purchase", 3)]


def test_a_bad_event_is_a_quarantine_row(engine: Any) -> None:
    question = "select event_type, reason, field from quarantine"
    assert engine.run(question).rows() == [("purchase", "wrong_type", "price")]


def test_common_table_expressions_and_windows_are_accepted(engine: Any) -> None:
    text = "with n as (select item, row_number() over (order by event_id) as i from purchases) select sum(i) from n"
    assert engine.run(text).rows() == [(6,)]
    assert engine.run("explain select * from purchases").rows()


def test_many_threads_query_at_once(engine: Any) -> None:
    answers: list[Any] = []

    def ask() -> None:
        for _ in range(3):
            answers.append(engine.run("select count(*), sum(price) from purchases").rows()[0])

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(3, Decimal("29.97"))] * 18


def test_results_convert_to_arrow_rows_and_json(engine: Any) -> None:
    text = "select item, price, tags from purchases"
    assert engine.sql(text).to_pylist() == engine.run(text).arrow().to_pylist() == engine.run(text).dicts()
    assert [json.loads(line) for line in engine.run(text).jsons()] == [
        {"item": "sword", "price": 9.99, "tags": ["a", "b"]}
    ] * 3


# -- how it is asked -----------------------------------------------------------------------------


def test_parameters_are_passed_separately(engine: Any) -> None:
    assert engine.run("select distinct item from purchases where player_id = ?", ["ann"]).rows() == [("sword",)]
    assert engine.run("select item from purchases where player_id = $who", {"who": "x' or '1'='1"}).rows() == []


@pytest.mark.parametrize("statement", ["show tables", "SHOW TABLES;", "show tables -- all"])
def test_show_tables(engine: Any, statement: str) -> None:
    names = [row[0] for row in engine.run(statement).rows()]
    assert names == ["events", "join_guild", "purchases", "quarantine"]


@pytest.mark.parametrize("statement", ["show schemas", "show databases", "SHOW SCHEMAS ;"])
def test_show_schemas(engine: Any, statement: str) -> None:
    assert engine.run(statement).rows() == [("main",)]


@pytest.mark.parametrize(
    "statement",
    ["describe purchases", "desc Purchases", 'describe "purchases"', "describe main.purchases",
     "show columns from purchases", "show columns in purchases;"],
)  # fmt: skip
def test_columns_have_the_plans_descriptions(engine: Any, statement: str) -> None:
    columns = {name: (type_, comment) for name, type_, comment in engine.run(statement).rows()}
    assert columns["item"] == ("varchar", "What was bought.")
    assert columns["price"] == ("decimal(12,2)", "What it cost.")
    assert columns["tags"][0] == "varchar[]"
    assert {"event_id", "event_time", "received_time", "player_id", "raw_event", "plan_version"} <= set(columns)


def test_show_create_table(engine: Any) -> None:
    ((text,),) = engine.run("show create table purchases").rows()
    assert text.startswith("create table purchases (") and "price decimal(12,2) comment 'What it cost.'" in text


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select * from purchase", "did you mean purchases?"),
        ("select itme from purchases", "itme"),
        ("selec 1", "selec"),
        ("", "no statements"),
        ("select 1; select 2", "2 statements; run one at a time"),
        ("select 1 +", ""),
        ("describe nothing", "there is no table nothing"),
    ],
)
def test_an_error_explains_the_cause(engine: Any, statement: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        engine.run(statement)
    assert message in str(refused.value)


TEN = "n as (select * from (values (1), (2), (3), (4), (5), (6), (7), (8), (9), (10)) as v(x))"
FOREVER = f"with {TEN} select count(*) from " + ", ".join(f"n n{i}" for i in range(12)) + " where " + " + ".join(
    f"n{i}.x" for i in range(12)
) + " = 13"  # fmt: skip


def test_a_statement_is_stopped_at_the_time_limit(open_engine: Open) -> None:
    impatient = open_engine(2)
    with pytest.raises(QueryError, match="stopped after 2 s"):
        impatient.run(FOREVER)
    assert open_engine(60).run("select 1").rows() == [(1,)]


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "insert into purchases (item) values ('x')", "update purchases set item = 'x'", "delete from purchases",
        "drop table purchases", "drop view events", "create table t as select 1 as x",
        "create or replace view events as select 1 as x", "alter table purchases add column x bigint",
        "truncate table purchases", "call system.rollback()", "set session query_max_run_time = '1s'",
        "use other", "begin", "start transaction", "commit", "prepare p from select 1", "execute p",
        "grant select on purchases to x", "analyze purchases",
        "explain analyze delete from purchases", "/* select */ drop table purchases",
        "-- select\ndelete from purchases",
        "with x as (select 1 as y) insert into purchases select * from x", "select 1; drop table purchases",
    ],
)  # fmt: skip
def test_only_statements_that_read_are_accepted(engine: Any, statement: str) -> None:
    with pytest.raises(QueryError) as refused:
        engine.run(statement)
    assert str(refused.value)
    assert engine.run("select count(*), count(distinct item) from purchases").rows() == [(3, 1)]
