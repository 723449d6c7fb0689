"""The peer's stream: a Python filter and `from_json` per event type, Parquet files in a folder, every 10 seconds.

Run: KAFKA=… TOPIC=… FOLDER=hdfs://… spark-submit stream.py [--once]
"""

import json
import os
import sys

from pyspark.sql import Column, SparkSession
from pyspark.sql.functions import col, from_json, udf

TABLES = {"purchase_sword": "sword_purchases", "join_guild": "join_guild"}
FIELDS = "`Accept` string, `Host` string, `User-Agent` string, `event_type` string"


def is_type(event_type: str, text: Column) -> Column:
    """Return whether the event is of this type, tested in Python for each event."""
    return udf(lambda value: json.loads(value)["event_type"] == event_type, "boolean")(text)


def main() -> None:
    spark = SparkSession.builder.appName("tutorial").getOrCreate()
    once = "--once" in sys.argv
    source = spark.readStream.format("kafka").option("kafka.bootstrap.servers", os.environ["KAFKA"])
    source = source.option("subscribe", os.environ["TOPIC"])
    events = source.option("startingOffsets", "earliest").load()
    text = col("value").cast("string")
    queries = []
    for event_type, table in TABLES.items():
        rows = events.filter(is_type(event_type, text)).select(
            text.alias("raw_event"), col("timestamp").cast("string"), from_json(text, FIELDS).alias("event")
        )
        writer = rows.select("raw_event", "timestamp", "event.*").writeStream.format("parquet")
        writer = writer.option("path", f"{os.environ['FOLDER']}/{table}")
        writer = writer.option("checkpointLocation", f"{os.environ['FOLDER']}/checkpoints/{table}")
        writer = writer.trigger(availableNow=True) if once else writer.trigger(processingTime="10 seconds")
        queries.append(writer.start())
    for query in queries:
        query.awaitTermination()


if __name__ == "__main__":
    main()
