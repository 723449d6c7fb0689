"""Analysts' queries, written once, with the same results on DuckDB, Spark and Presto."""

import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from support.paths import CLUSTER

if TYPE_CHECKING:
    from cluster.conftest import Shop

TEXT = (CLUSTER / "corpus.sql").read_text("utf-8")
QUERIES = [(name, sql.strip()) for name, sql in re.findall(r"^-- (.*)\n((?:(?!--).*\n?)*?.*);$", TEXT, re.M)]


def plain(value: Any) -> Any:
    """Return a value in a form that is equal if engines differ only in the type of a number."""
    if isinstance(value, Decimal | float | int) and not isinstance(value, bool):
        return None if isinstance(value, float) and math.isnan(value) else round(Decimal(str(value)), 6).normalize()
    return value


def plain_rows(rows: Any) -> list[tuple[Any, ...]]:
    return [tuple(map(plain, row)) for row in rows]


def test_the_corpus_is_read_completely() -> None:
    assert len(QUERIES) == TEXT.count(";\n") >= 40


@pytest.mark.parametrize(("name", "sql"), QUERIES, ids=[name for name, _ in QUERIES])
def test_three_engines_agree(shop: "Shop", name: str, sql: str) -> None:
    duckdb = plain_rows(shop.embedded.sql(sql).rows())
    assert duckdb, "an answer of no rows proves nothing"
    assert plain_rows(shop.presto.run(sql).rows()) == duckdb
    _spark_events(shop)
    assert plain_rows(shop.spark.sql(sql).collect()) == duckdb


def _spark_events(shop: "Shop") -> None:
    """Create the view `events` for Spark: the one in the catalog is in Presto's dialect."""
    shared = ", ".join(c.name for c in shop.presto.tables()["events"])
    parts = [f"select {shared} from lake.{shop.server.schema}.{table}" for table in ("purchases", "join_guild")]
    shop.spark.sql("create or replace temp view events as " + " union all ".join(parts))
