"""Presto through questlog: types, errors and limits."""

import datetime as dt
import threading
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from questlog.errors import QueryError
from questlog.pipeline import open_pipeline
from questlog.query.presto import PrestoEngine, PrestoServer
from questlog.query.presto.client import run
from support.waiting import until

if TYPE_CHECKING:
    from cluster.conftest import Shop

TYPED = """
select true, cast(1 as tinyint), cast(2 as smallint), 3, bigint '4', real '0.5', double '0.25', nan(), infinity(),
 decimal '12.340', date '2026-03-01', timestamp '2026-03-01 01:02:03.004',
 timestamp '2026-03-01 01:02:03.004 Europe/Berlin', 'it''s 剣', x'00ff', array[1, null], map(array['k'], array[1.5e0]),
 map(array[7], array['x']), cast(row(1, 'a') as row(n bigint, "odd name" varchar)), null, array[array['x']]
"""


def test_values_have_their_types(shop: "Shop") -> None:
    table = shop.presto.sql(TYPED)
    (row,) = zip(*(column.to_pylist() for column in table.columns), strict=True)
    assert row[7] != row[7]
    assert [*row[:7], *row[8:]] == [
        True, 1, 2, 3, 4, 0.5, 0.25, float("inf"), Decimal("12.340"), dt.date(2026, 3, 1),
        dt.datetime(2026, 3, 1, 1, 2, 3, 4000), dt.datetime(2026, 3, 1, 0, 2, 3, 4000, dt.UTC), "it's 剣", b"\x00\xff",
        [1, None], [("k", 1.5)], [(7, "x")], {"n": 1, "odd name": "a"}, None, [["x"]],
    ]  # fmt: skip
    assert table.column(9).type == pa.decimal128(5, 3)


def test_every_column_holds_the_landed_values(shop: "Shop") -> None:
    text = "select * from purchases order by event_id"
    assert shop.presto.run(text).rows() == shop.embedded.sql(text).rows()
    text = "select * from quarantine order by event_id"
    assert shop.presto.run(text).rows() == shop.embedded.sql(text).rows()


@pytest.mark.parametrize(
    "statement",
    ["show tables", "describe purchases", "desc quarantine", "show columns from join_guild", "describe events"],
)
def test_show_and_describe_answer_as_on_a_laptop(shop: "Shop", statement: str) -> None:
    assert shop.presto.run(statement).rows() == shop.embedded.sql(statement).rows()


def test_parameters_are_passed_separately(shop: "Shop") -> None:
    ask = shop.presto.run
    assert ask("select ?, ?", [1, "it's ?"]).rows() == [(1, "it's ?")]
    assert ask(
        "select $who, '$who', $2x from (values 1) t($2x)".replace("$2x", "x"), {"who": "x' or '1'='1"}
    ).rows() == [("x' or '1'='1", "$who", 1)]
    moment = dt.datetime(2026, 3, 1, 12, 0, 0, 5000, dt.UTC)
    given = [Decimal("1.20"), moment, dt.date(2026, 3, 1), b"\x01", None, True, 0.5]
    (row,) = ask("select " + ", ".join("?" * len(given)), given).rows()
    assert row == (Decimal("1.20"), moment.replace(tzinfo=None), dt.date(2026, 3, 1), b"\x01", None, True, 0.5)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select * from purchase", "did you mean purchases?"),
        ("select itme from purchases", "Column 'itme' cannot be resolved"),
        ("selec 1", "selec is refused: only statements that read"),
        ("", "no statements"),
        ("select 1; select 2", "2 statements; run one at a time"),
        ("select 1 +", "mismatched input"),
        ("describe nothing", "there is no table nothing"),
    ],
)
def test_an_error_explains_the_cause(shop: "Shop", statement: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        shop.presto.run(statement)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "insert into purchases (item) values ('x')", "delete from purchases", "drop table purchases",
        "drop view events", "grant select on purchases to x",
        "create table t as select 1 as x", "create or replace view events as select 1 as x", "call system.rollback()",
        "alter table purchases add column x bigint", "explain analyze insert into purchases (item) values ('x')",
        "explain analyze drop table purchases", "explain (type distributed) delete from purchases",
        "set session query_max_run_time = '1s'", "use iceberg.other", "prepare p from select 1", "start transaction",
        "/* select */ drop table purchases", "-- select\ndelete from purchases", "analyze purchases",
        "explain analyze verbose delete from purchases",
    ],
)  # fmt: skip
def test_only_statements_that_read_are_accepted(shop: "Shop", statement: str) -> None:
    before = shop.presto.run("select count(*) from purchases").rows()
    with pytest.raises(QueryError):
        shop.presto.run(statement)
    assert shop.presto.run("select count(*) from purchases").rows() == before
    assert shop.presto.run("explain select * from purchases").rows()


SLOW = "select count(*) from purchases a, purchases b, purchases c, purchases d, purchases e where a.item < b.item"


def _running(shop: "Shop") -> Sequence[object]:
    question = "select 1 from system.runtime.queries where state = 'RUNNING' and query like '%purchases e%'"
    return run(shop.server, f"{question} and query not like '%system.runtime%'", 20).rows


def test_a_statement_at_the_time_limit_is_stopped_on_the_server_too(shop: "Shop") -> None:
    impatient = PrestoEngine(shop.server, lambda: shop.embedded.plan, seconds=1)
    with pytest.raises(QueryError, match="stopped after 1 s"):
        impatient.run(SLOW)
    until(lambda: not _running(shop), "it no longer runs", every=0.2)


def test_many_threads_query_at_once(shop: "Shop") -> None:
    answers: list[object] = []

    def ask() -> None:
        for _ in range(3):
            answers.append(shop.presto.run("select count(*), sum(price) from purchases").rows())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [shop.embedded.sql("select count(*), sum(price) from purchases").rows()] * 18


def test_a_long_result_is_complete(shop: "Shop") -> None:
    text = "select x * 1000 + y from unnest(sequence(0, 99)) a(x) cross join unnest(sequence(0, 999)) b(y)"
    assert sorted(shop.presto.sql(text).column(0).to_pylist()) == list(range(100_000))


def test_an_unreachable_server_is_reported() -> None:
    nobody = PrestoEngine(PrestoServer("http://127.0.0.1:9", "iceberg", "shop"), lambda: None, seconds=1)  # type: ignore[arg-type,return-value]
    with pytest.raises(QueryError, match=r"Presto at http://127.0.0.1:9 does not answer"):
        nobody.run("select 1")


def test_a_password_is_never_sent_unencrypted() -> None:
    plain = PrestoServer("http://127.0.0.1:9", "iceberg", "shop", "ann", "secret")
    assert "secret" not in repr(plain)
    with pytest.raises(QueryError, match="unencrypted"):
        run(plain, "select 1", 1)


@pytest.mark.parametrize(
    "statement",
    ["show tables", "describe purchases", "select count(*) from events",
     "select host as host, count(*) as count from join_guild group by host order by 1",
     "select count(*) as count from join_guild"],
)  # fmt: skip
def test_a_cluster_project_answers_like_a_laptop_project(shop: "Shop", statement: str) -> None:
    options = {"url": shop.server.url}
    with open_pipeline(
        shop.embedded.project.root, profile="cluster", namespace=shop.server.schema, presto=options
    ) as cluster:
        assert cluster.sql(statement).rows() == shop.embedded.sql(statement).rows()
