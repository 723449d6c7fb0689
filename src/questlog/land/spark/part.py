"""A part of the topic as one table of records, and where in the topic it lies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from questlog.land.part import Bound
from questlog.land.spark.kafka import java_options
from questlog.log import Position
from questlog.log.kafka.topic import Topic, describe_topic, offsets_at

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = ["value", "partition", "offset", "unix_millis(timestamp) as ms", "headers"]


def find_part(kafka: Mapping[str, str], topic: str, start: Bound, stop: Bound) -> tuple[Position, Position]:
    """Return the first offset and the end of each partition between the bounds, within what the topic still has."""
    found = describe_topic(kafka, topic)
    first = _offsets(kafka, found, start, {p.id: p.first for p in found.partitions})
    until = _offsets(kafka, found, stop, {p.id: p.end for p in found.partitions})
    return first, {partition: max(end, first[partition]) for partition, end in until.items()}


def _offsets(kafka: Mapping[str, str], topic: Topic, bound: Bound, otherwise: Position) -> Position:
    wanted = bound.offsets if bound.ms is None else offsets_at(kafka, topic, bound.ms)
    return {p.id: min(max(wanted.get(p.id, otherwise[p.id]), p.first), p.end) for p in topic.partitions}


def read_part(spark: SparkSession, kafka: Mapping[str, str], topic: str, first: Position, until: Position) -> DataFrame:
    """Return the records from *first* to before *until*; a Spark partition holds one of the topic's, in order."""
    frame = (
        spark.read.format("kafka")
        .options(**java_options(kafka))
        .option("subscribe", topic)
        .option("includeHeaders", "true")
        .option("failOnDataLoss", "true")
        .option("startingOffsets", _text(topic, first))
        .option("endingOffsets", _text(topic, until))
        .load()
    )
    return frame.selectExpr(*COLUMNS)


def _text(topic: str, position: Position) -> str:
    return json.dumps({topic: {str(partition): offset for partition, offset in position.items()}})
