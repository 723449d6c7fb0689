"""The embedded engine, beyond tests/contracts/test_query.py: the tail, DuckDB's SQL, limits."""

import datetime as dt
import json
import multiprocessing
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

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


@pytest.fixture
def game(tmp_path: Path) -> Iterator[Pipeline]:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path, land_seconds=0.05, query_seconds=20)
    yield pipeline
    pipeline.close()
    pipeline.log.close()  # type: ignore[attr-defined]


def send(game: Pipeline, *bodies: bytes) -> None:
    now = time.time_ns() // 1_000_000
    game.log.append([encode_record(body, id=new_id(), received_ms=now, headers={"Host": "h"}) for body in bodies])


def land(game: Pipeline) -> None:
    with game.lander() as lander:
        lander.drain()


# -- results ----------------------------------------------------------------------------


def test_a_project_without_events_answers_queries(game: Pipeline) -> None:
    assert game.sql("select count(*) from purchases").rows() == [(0,)]
    assert game.sql("select * from quarantine").rows() == []
    assert not game.project.data.exists(), "a query creates nothing"


@pytest.mark.parametrize("landed", ["in the tail", "landed", "half and half"])
def test_values_are_returned_as_they_were_sent(game: Pipeline, landed: str) -> None:
    send(game, PURCHASE)
    if landed != "in the tail":
        land(game)
    if landed == "half and half":
        send(game, PURCHASE)
    rows = game.sql("select player_id, item, price, tags, host from purchases").rows()
    assert rows == [("ann", "sword", Decimal("9.99"), ["a", "b"], "h")] * (2 if landed == "half and half" else 1)


def test_the_view_events_holds_every_type(game: Pipeline) -> None:
    send(game, PURCHASE, GUILD)
    land(game)
    send(game, GUILD)
    statement = "select event_type, count(*) from events group by 1 order by 1"
    assert game.sql(statement).rows() == [("join_guild", 2), ("purchase", 1)]


def test_every_acknowledged_event_is_in_the_next_query_once_while_others_land(game: Pipeline) -> None:
    """A writer, a lander with its merges and this reader run at once; no count is ever too low or too high."""
    sent = acknowledged = 0
    stop = threading.Event()

    def write() -> None:
        nonlocal sent, acknowledged
        while not stop.is_set():
            sent += 3
            send(game, PURCHASE, GUILD, b"{")
            acknowledged += 3

    reader = open_pipeline(game.project.root)
    threads = [threading.Thread(target=write)]
    with game.lander() as lander:
        threads.append(threading.Thread(target=lander.run, args=(stop,)))
        for thread in threads:
            thread.start()
        try:
            began, queries = time.monotonic(), 0
            while time.monotonic() < began + 5 or queries <= 10 or acknowledged <= 100:
                assert time.monotonic() < began + 120, "too slow to be conclusive"
                least = acknowledged
                (count,) = reader.sql(
                    "select (select count(*) from purchases) + (select count(*) from join_guild)"
                    " + (select count(*) from quarantine)"
                ).rows()[0]
                assert least <= count <= sent
                queries += 1
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    ids = "select event_id from purchases union all select event_id from join_guild"
    assert reader.sql(f"select count(*), count(distinct event_id) from ({ids})").rows()[0] == (sent * 2 // 3,) * 2


def test_another_process_sees_the_tail_immediately(game: Pipeline) -> None:
    send(game, PURCHASE)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(_count, (str(game.project.root),)) == 1
        send(game, PURCHASE)
        assert pool.apply(_count, (str(game.project.root),)) == 2


def _count(folder: str) -> int:
    count: int = open_pipeline(folder).sql("select count(*) from purchases").rows()[0][0]
    return count


def test_a_forked_child_can_query(game: Pipeline) -> None:
    send(game, PURCHASE)
    assert game.sql("select count(*) from purchases").rows() == [(1,)]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(game.sql("select count(*) from purchases").rows()))
    child.start()
    assert queue.get(timeout=20) == [(1,)]
    child.join()
    assert game.sql("select count(*) from purchases").rows() == [(1,)]


# -- statements -----------------------------------------------------------------------------


def test_pivot_windows_and_recursion_are_accepted(game: Pipeline) -> None:
    send(game, PURCHASE, GUILD)
    assert game.sql("pivot events on event_type using count(*) group by host").columns == [
        "host",
        "join_guild",
        "purchase",
    ]
    counted = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select sum(i) from n"
    assert game.sql(counted).rows() == [(15,)]
    assert game.sql("select row_number() over (order by item) from purchases").rows() == [(1,)]
    assert game.sql("explain select * from purchases").rows()
    assert game.sql("from purchases select count(*)").rows() == [(1,)]
    assert game.sql("summarize purchases").rows()


def test_results_convert_to_arrow_pandas_polars_and_json(game: Pipeline) -> None:
    send(game, PURCHASE)
    result = game.sql("select item, price, received_time::timestamptz as at from purchases")
    assert result.arrow().num_rows == len(result.df()) == len(result.pl()) == len(result) == 1
    assert result.dicts()[0]["item"] == "sword" and isinstance(result.dicts()[0]["at"], dt.datetime)
    assert [row[0] for row in result] == ["sword"]
    (line,) = game.sql("select item, price, tags, 'nan'::double as odd from purchases").jsons()
    assert json.loads(line) == {"item": "sword", "price": 9.99, "tags": ["a", "b"], "odd": None}


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select * from purchase", "did you mean purchases?"),
        ("select itme from purchases", "item"),
        ("selec 1", 'syntax error at or near "selec"'),
        ("", "no statements"),
        ("select 1; select 2", "2 statements; run one at a time"),
        ("select 1 +", "syntax error"),
        ("select 1/0 from", "syntax error"),
        ("select 'x'::int", "Could not convert string 'x'"),
        ("describe nothing", "there is no table nothing"),
        ("(" * 5000 + "1" + ")" * 5000, ""),
    ],
)
def test_an_error_explains_the_cause(game: Pipeline, statement: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        game.sql(statement)
    assert message in str(refused.value)


def test_a_statement_is_stopped_at_the_time_limit(game: Pipeline) -> None:
    limited = open_pipeline(game.project.root, query_seconds=0.3)
    with pytest.raises(QueryError, match=r"stopped after 0.3 s"):
        limited.sql("select count(*) from range(10000000) a, range(10000000) b where a.range = b.range + 1.5")
    assert limited.sql("select 1").rows() == [(1,)]
