"""The cluster's export: Presto's hive catalog and Spark's Hive support return the rows of the Iceberg tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from questlog.errors import QuestlogError
from questlog.export.hive import HiveExport
from questlog.export.metastore import open_metastore
from questlog.query.presto import PrestoEngine, PrestoServer
from questlog.stack import Stack
from support.cluster.spark_options import Kept

if TYPE_CHECKING:
    from cluster.conftest import Shop

QUESTIONS = [
    "select count(*) as n, count(distinct player_id) as players from {purchases}",
    "select item, sum(price) as total, min(price) as low, max(price) as high from {purchases} group by item",
    "select event_id, event_time, received_time, price from {purchases} order by event_id limit 50",
    "select event_id, place.zone as zone, place.x as x from {purchases} where place is not null order by event_id",
    "select event_id, tags, weights from {purchases} order by event_id limit 60",
    "select guild, count(*) as n from {join_guild} where event_time >= timestamp '2026-03-01 12:00:00' group by guild",
    "select reason, field, count(*) as n from {quarantine} group by reason, field",
]
HIVE = """
import json, sys
from pyspark.sql import SparkSession
uri, jars = sys.argv[1:3]
spark = (SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    .config("spark.log.level", "ERROR").config("spark.driver.memory", "1g").config("spark.sql.session.timeZone", "UTC")
    .config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.hadoop.hive.metastore.uris", uri).config("spark.sql.shuffle.partitions", "1")
    .enableHiveSupport().getOrCreate())
answers = [[row.asDict(True) for row in spark.sql(text).collect()] for text in json.load(sys.stdin)]
print("ANSWERS" + json.dumps(answers, default=str))
spark.stop()
"""


class Exports:
    """The shop's tables, and the target of the export."""

    def __init__(self, shop: Shop, stack: Stack) -> None:
        self.shop, self.stack = shop, stack
        self.schema = shop.server.schema
        self.database = f"{self.schema}_export"
        self.hive = PrestoEngine(
            PrestoServer(stack.addresses.presto, "hive", self.database), lambda: shop.embedded.plan, seconds=60
        )

    def run(self, *tables: str, **more: Any) -> Any:
        work = HiveExport(
            lambda: Kept(self.shop.spark), catalog="lake", namespace=self.schema, database=self.database,
            warehouse=self.stack.addresses.warehouse, metastore=self.stack.addresses.metastore, **more,
        )  # fmt: skip
        return work.run(tables, threading.Event(), lambda *_: None)

    def drop(self, name: str) -> None:
        with open_metastore(self.shop.spark, self.stack.addresses.metastore) as metastore:
            metastore._client.dropTable(self.database, name, True, True)


@pytest.fixture(scope="module")
def exports(shop: Shop, stack: Stack) -> Iterator[Exports]:
    shop_exports = Exports(shop, stack)
    shop_exports.run("purchases", "join_guild", "quarantine")
    yield shop_exports
    for name in ("purchases", "join_guild", "quarantine"):
        shop_exports.drop(name)


def plain(value: Any) -> Any:
    """Return a value of any engine in a common form."""
    if hasattr(value, "asDict"):
        return plain(value.asDict())
    if isinstance(value, dict):
        return sorted((key, plain(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value if isinstance(value, int | float | bool) or value is None else str(value)


def lines(rows: Any) -> list[str]:
    return sorted(json.dumps(plain(list(row.values()) if isinstance(row, dict) else list(row))) for row in rows)


def ask(exports: Exports, text: str) -> list[str]:
    tables = {name: name for name in ("purchases", "join_guild", "quarantine")}
    return lines(exports.shop.presto.run(text.format(**tables)).rows())


def test_prestos_hive_catalog_answers_like_the_iceberg_tables(exports: Exports) -> None:
    tables = {name: name for name in ("purchases", "join_guild", "quarantine")}
    for text in QUESTIONS:
        assert lines(exports.hive.run(text.format(**tables)).rows()) == ask(exports, text), text
    by_day = exports.hive.run("select day, count(*) from purchases group by day order by day").rows()
    whole = "select cast(received_time as date), count(*) from purchases group by 1 order by 1"
    assert by_day == exports.shop.presto.run(whole).rows()


def test_sparks_hive_support_answers_like_the_iceberg_tables(exports: Exports) -> None:
    tables = {name: f"{exports.database}.{name}" for name in ("purchases", "join_guild", "quarantine")}
    texts = [text.format(**tables) for text in QUESTIONS]
    at = exports.stack.addresses
    ran = subprocess.run(
        [sys.executable, "-c", HIVE, at.metastore, ""], input=json.dumps(texts), capture_output=True, text=True,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    (answers,) = (json.loads(line[7:]) for line in ran.stdout.splitlines() if line.startswith("ANSWERS"))
    iceberg = {name: f"lake.{exports.schema}.{name}" for name in tables}
    for text, rows in zip(QUESTIONS, answers, strict=True):
        wanted = [row.asDict(True) for row in exports.shop.spark.sql(text.format(**iceberg)).collect()]
        assert lines(rows) == lines(json.loads(json.dumps(wanted, default=str))), text


def test_only_changed_days_are_rewritten_and_old_files_are_deleted_later(exports: Exports) -> None:
    again = exports.run("purchases", "join_guild", "quarantine")
    assert [one.written for one in again.values()] == [[], [], []]
    spark = exports.shop.spark
    game = f"lake.{exports.schema}"
    count = "select count(*) from join_guild"
    ((before,),) = exports.hive.run(count).rows()
    make_grown(exports)
    first = exports.run("grown")["grown"]
    assert first.rows == before and len(first.written) > 1
    last = max(first.written)
    spark.sql(f"insert into {game}.grown values ('more', timestamp_ntz '{last} 23:59:59')")
    spark.sql(f"alter table {game}.grown add column note string")
    second = exports.run("grown")["grown"]
    assert (second.written, second.unchanged) == ([last], len(first.written) - 1)
    assert exports.hive.run("select count(*), count(note) from grown").rows() == [(before + 1, 0)]
    root = f"{exports.stack.addresses.warehouse}/{exports.database}.db/grown/day={last}"
    assert len(folders(spark, root)) == 2
    exports.run("grown", keep_seconds=0)
    assert len(folders(spark, root)) == 1
    spark.sql(f"delete from {game}.grown where received_time >= timestamp_ntz '{last}'")
    assert exports.run("grown")["grown"].dropped == [last]
    assert exports.hive.run(f"select count(*) from grown where day = date '{last}'").rows() == [(0,)]
    exports.drop("grown")
    spark.sql(f"drop table {game}.grown")


def make_grown(exports: Exports, name: str = "grown") -> None:
    exports.shop.spark.sql(
        f"create or replace table lake.{exports.schema}.{name} using iceberg partitioned by (days(received_time))"
        f" as select event_id, received_time - make_dt_interval(pmod(hash(event_id), 3)) as received_time"
        f" from lake.{exports.schema}.join_guild"
    )


def folders(spark: Any, root: str) -> list[str]:
    path = spark._jvm.org.apache.hadoop.fs.Path(root)
    system = path.getFileSystem(spark._jsc.hadoopConfiguration())
    return [status.getPath().getName() for status in system.listStatus(path)]


def test_a_table_that_no_export_created_is_left_alone(exports: Exports) -> None:
    exports.hive._answer("create table stranger (x bigint)")
    make_grown(exports, "stranger")
    with pytest.raises(QuestlogError, match="not created by an export of"):
        exports.run("stranger")
    exports.drop("stranger")
    exports.shop.spark.sql(f"drop table lake.{exports.schema}.stranger")
    with pytest.raises(QuestlogError, match="holds the Iceberg tables"):
        HiveExport(lambda: None, catalog="lake", namespace="a", database="a", warehouse="", metastore="thrift://a:1")  # type: ignore[arg-type,return-value]
