"""The same events in DuckDB, Spark and Presto: landed by the embedded profile, then copied by Spark."""

import datetime as dt
import json
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet

from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.ddl import create_statements
from questlog.record import encode_record, new_id
from questlog.stack import Stack
from questlog.stack.spark import spark_environment, spark_options

PLAN = """
[game]
name = "shop"

[events.purchase]
description = "A player bought something."
table = "purchases"
[events.purchase.fields]
item = { type = "string", description = "What was bought." }
price = { type = "decimal(12,2)", description = "What it cost." }
tags = "list<string>"
weights = "map<string, double>"
place = "struct<zone: string, x: double>"

[events.join_guild.fields]
guild = "string"
"""
ITEMS = ["sword", "shield", "épée 剣", "it's", "bow", None]
START = dt.datetime(2026, 3, 1, 6, tzinfo=dt.UTC)


def bodies(seed: int) -> list[bytes]:
    """Return events with nulls, unusual letters, decimals and dates; one in a dozen does not fit the plan."""
    chance = random.Random(seed)
    bodies = []
    for number in range(240):
        moment = START + dt.timedelta(seconds=number * 977 + chance.randrange(900))
        event: dict[str, Any] = {"event_time": moment.isoformat(), "player_id": chance.choice(["p1", "p2", "p3", None])}
        if number % 3:
            event |= {"event_type": "purchase", "item": chance.choice(ITEMS), "tags": ["a", "b"][: number % 3]}
            event["price"] = chance.choice(["9.99", "0.01", "25.00", "9999999999.99", "19.5"])
            event["weights"] = {"kg": number / 8}
            event["place"] = chance.choice([None, {"zone": "north", "x": 0.5}, {"zone": "south", "x": number / 4}])
        else:
            event |= {"event_type": "join_guild", "guild": chance.choice(["wolves", "bears"])}
            event["player_id"] = chance.choice([event["player_id"], "p4"])
        if number % 12 == 0:
            event |= {"event_type": "purchase", "price": "much"}
        bodies.append(json.dumps({k: v for k, v in event.items() if v is not None}).encode())
    return bodies


def fill_embedded(folder: Path, seed: int) -> Pipeline:
    """Return a project with these events landed."""
    folder.mkdir()
    (folder / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(folder)
    ids = random.Random(seed)
    received = int(START.timestamp() * 1000)
    records = [
        encode_record(body, id=new_id(), received_ms=received + n, headers={"Host": ids.choice(["a.com", "b.com"])})
        for n, body in enumerate(bodies(seed))
    ]
    pipeline.log.append(records)
    with pipeline.lander() as lander:
        lander.drain()
    return pipeline


def open_spark(stack: Stack) -> Any:
    """Return a Spark session on the stack."""
    import os

    os.environ.update(spark_environment(stack.layout))
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("tests").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.shuffle.partitions", "2").config("spark.log.level", "ERROR")
    for name, value in spark_options(stack.layout).items():
        builder = builder.config(name, value)
    assert sys.executable == os.environ["PYSPARK_PYTHON"]
    return builder.getOrCreate()


def copy_tables(pipeline: Pipeline, spark: Any, schema: str, folder: Path) -> None:
    """Create the plan's tables in the metastore and fill them with the rows of *pipeline*."""
    spark.sql(f"create namespace if not exists lake.{schema}")
    spark.sql(f"use lake.{schema}")
    for statement in create_statements(pipeline.plan, "spark"):
        spark.sql(statement)
    for table in (*pipeline.plan.tables, QUARANTINE_TABLE):
        rows = pipeline.sql(f"select * from {table}").arrow()
        path = folder / f"{table}.parquet"
        pyarrow.parquet.write_table(rows, path)
        frame = spark.read.parquet(f"file://{path}")
        target = spark.table(table)
        frame.select(*(frame[c.name].cast(c.dataType) for c in target.schema)).writeTo(table).append()
