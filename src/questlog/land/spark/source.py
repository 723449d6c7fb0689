"""The topic as Spark reads it, from any place in it; and how far the tables are, told to Kafka."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from questlog.errors import LogUnavailable
from questlog.land.spark.kafka import java_options
from questlog.land.spark.part import COLUMNS
from questlog.log import Position
from questlog.log.kafka.wire import GROUP

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_BEGINNING = -2
"""Spark's word for a partition's first offset, whatever that is."""


class Source:
    """One topic; every position is checked against what it holds now."""

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        self._kafka, self._topic = kafka, topic

    def stream(self, spark: SparkSession, start: Position, batch_records: int) -> DataFrame:
        """Return what comes from *start* on, some records at a time."""
        reader = self._reader(spark.readStream, start).option("maxOffsetsPerTrigger", str(batch_records))
        return _records(reader)

    def part(self, spark: SparkSession, start: Position, end: Position) -> DataFrame:
        """Return what lies between."""
        return _records(self._reader(spark.read, start).option("endingOffsets", self._offsets(end, 0)))

    def waiting(self, position: Position) -> int:
        """Return how many records are behind *position*."""
        from questlog.log.kafka.topic import describe_topic

        parts = describe_topic(self._kafka, self._topic).partitions
        return sum(p.end - max(p.first, position.get(p.id, 0)) for p in parts)

    def _reader(self, reader: Any, start: Position) -> Any:
        options = {
            **java_options(self._kafka), "subscribe": self._topic, "includeHeaders": "true", "failOnDataLoss": "true",
            "startingOffsets": self._offsets(start, _BEGINNING),
        }  # fmt: skip
        return reader.format("kafka").options(**options)

    def _offsets(self, position: Position, otherwise: int) -> str:
        """Return a position for Spark, which wants every partition named."""
        from questlog.log.kafka.topic import describe_topic

        ends = {p.id: p for p in describe_topic(self._kafka, self._topic).partitions}
        gone = [p for p, offset in position.items() if p not in ends or ends[p].end < offset]
        if gone:
            raise LogUnavailable(
                f"topic {self._topic} ends before what is landed of its partition {gone[0]}: it was made anew",
                hint="land into tables of another namespace",
            )
        return json.dumps({self._topic: {str(p): position.get(p, otherwise) for p in ends}})


def _records(reader: Any) -> DataFrame:
    found: DataFrame = reader.load().selectExpr(*COLUMNS)
    return found


def commit_offsets(kafka: Mapping[str, str], topic: str, position: Position) -> None:
    """Commit *position* to the group whose lag Kafka's own tools show; forwarders trim their spools by it."""
    from confluent_kafka import KafkaException, TopicPartition

    from questlog.log.kafka.client import open_consumer, unavailable

    if not position:
        return
    consumer = open_consumer(kafka, GROUP)
    try:
        offsets = [TopicPartition(topic, partition, offset) for partition, offset in position.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
    except KafkaException as error:
        raise unavailable(kafka, error, topic) from error
    finally:
        consumer.close()
