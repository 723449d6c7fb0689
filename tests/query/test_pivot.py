"""The values of a PIVOT without IN are looked up first; results equal those of DuckDB itself."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from questlog.errors import QueryError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.query.pivot import MOST_VALUES, read_pivot

ROWS = "(values (1, 'x', 1.5, date '2026-01-01'), (2, 'it''s', 2.5, null), (3, null, 1.5, date '2026-01-02'))"
SOURCE = f"(select * from {ROWS} t(a, b, p, d))"


@pytest.fixture
def game(tmp_path: Path) -> Iterator[Pipeline]:
    (tmp_path / "plan.toml").write_text("[events.default]\n")
    with open_pipeline(tmp_path) as pipeline:
        yield pipeline


@pytest.mark.parametrize(
    "statement",
    [
        f"pivot {SOURCE} on b using count(*)",
        f"PIVOT {SOURCE} ON b -- comment\n USING sum(a) GROUP BY p ORDER BY ALL",
        f"pivot {SOURCE} on b, p using count(*)",
        f"pivot {SOURCE} on b in ('x'), p using count(*) group by d",
        f"pivot {SOURCE} on (b, p) using count(*)",
        f"pivot {SOURCE} on d using count(*) as n, max(a) as m",
        f"pivot {SOURCE} on p > 2",
        f"pivot {SOURCE} on b || ',' || p using count(*) limit 2",
        f"with t as {SOURCE}, u as (from t where a > 1) pivot u on b using count(*)",
        f"pivot_wider {SOURCE} on b using count(*)",
    ],
)
def test_the_result_is_duckdbs_own(game: Pipeline, statement: str) -> None:
    ours, theirs = game.sql(statement), duckdb.sql(statement)
    assert ours.columns == theirs.columns
    assert sorted(map(str, ours.rows())) == sorted(map(str, theirs.fetchall()))


def test_a_pivot_needs_some_values_and_not_too_many(game: Pipeline) -> None:
    with pytest.raises(QueryError, match="PIVOT finds no values of event_type"):
        game.sql("pivot events on event_type using count(*)")
    with pytest.raises(QueryError, match="more than 1,000 values of range"):
        game.sql(f"pivot (from range({MOST_VALUES + 1})) on range using count(*)")


@pytest.mark.parametrize(
    "statement",
    [
        "select 1",
        "pivot t on b in ('x') using count(*)",
        "pivot t using count(*) group by b",
        "select * from (pivot t on b)",
        "insert into t select * from pivot on x",
        "select pivot from t",
        "select 'pivot t on b'",
        "with a as (select 1) select pivot from t join u on t.a = u.a",
        "with a as (select 1) select (1) pivot from t join u on t.a = u.a",
    ],
)
def test_other_statements_are_left_as_they_are(statement: str) -> None:
    assert read_pivot(statement) is None
