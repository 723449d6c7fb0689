"""The topic as Spark reads it: from a position on, or between two; and its Kafka settings in Java's spelling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questlog.errors import LogUnavailable, QuestlogError
from questlog.log import Position
from questlog.log.kafka.client import BOOTSTRAP
from questlog.log.kafka.wire import GROUP

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_COLUMNS = ["value", "partition", "offset", "unix_millis(timestamp) as ms", "headers"]
_BEGINNING = -2
"""Spark's number for the first offset of a partition."""


class TopicSource:
    """One topic; every position is checked against what it holds now."""

    def __init__(self, kafka: Mapping[str, str], topic: str) -> None:
        self._kafka, self._topic = kafka, topic

    def stream(self, spark: SparkSession, start: Position, batch_records: int) -> DataFrame:
        """Return the records from *start* on, about *batch_records* at a time."""
        reader = self._reader(spark.readStream, self._offsets(start, _BEGINNING))
        return _records(reader.option("maxOffsetsPerTrigger", str(batch_records)))

    def part(self, spark: SparkSession, start: Position, end: Position) -> DataFrame:
        """Return the records from *start* to before *end*, each of the topic's partitions in order."""
        reader = self._reader(spark.read, self._offsets(start, _BEGINNING))
        return _records(reader.option("endingOffsets", self._offsets(end, 0)))

    def waiting(self, position: Position) -> int:
        """Return how many records follow *position*."""
        from questlog.log.kafka.topic import describe_topic

        partitions = describe_topic(self._kafka, self._topic).partitions
        return sum(p.end - max(p.first, position.get(p.id, 0)) for p in partitions)

    def _reader(self, reader: Any, start: str) -> Any:
        options = {
            **java_options(self._kafka), "subscribe": self._topic, "includeHeaders": "true", "failOnDataLoss": "true",
            "startingOffsets": start,
        }  # fmt: skip
        return reader.format("kafka").options(**options)

    def _offsets(self, position: Position, otherwise: int) -> str:
        """Return a position for Spark, which requires an offset for every partition."""
        from questlog.log.kafka.topic import describe_topic

        partitions = {p.id: p for p in describe_topic(self._kafka, self._topic).partitions}
        gone = [p for p, offset in position.items() if p not in partitions or partitions[p].end < offset]
        if gone:
            raise LogUnavailable(
                f"partition {gone[0]} of topic {self._topic} ends before its landed offset: the topic was recreated",
                hint="land into tables of another namespace",
            )
        return json.dumps({self._topic: {str(p): position.get(p, otherwise) for p in partitions}})


def _records(reader: Any) -> DataFrame:
    records: DataFrame = reader.load().selectExpr(*_COLUMNS)
    return records


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


# -- librdkafka's settings in the spelling of Kafka's Java client ------------------------------------

_SASL = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}
_SAME = ("bootstrap.servers", "security.protocol", "client.id", "ssl.key.password")
_HINT = "see [kafka] in questlog.toml"


def java_options(kafka: Mapping[str, str]) -> dict[str, str]:
    """Return *kafka* as options of Spark's source: brokers, user and certificates.

    Certificates are passed by content, not by path: the workers do not have the files.
    """
    options = {f"kafka.{key}": kafka[key] for key in _SAME if key in kafka}
    options.setdefault("kafka.bootstrap.servers", kafka.get("metadata.broker.list", BOOTSTRAP))
    return options | _user(kafka) | _certificates(kafka)


def _user(kafka: Mapping[str, str]) -> dict[str, str]:
    mechanism = kafka.get("sasl.mechanism", kafka.get("sasl.mechanisms", ""))
    if not mechanism:
        return {}
    if mechanism not in _SASL:
        raise QuestlogError(f"kafka: Spark cannot use sasl.mechanism {mechanism}", hint=f"one of {', '.join(_SASL)}")
    user, password = (_quoted(kafka.get(key, "")) for key in ("sasl.username", "sasl.password"))
    return {
        "kafka.sasl.mechanism": mechanism,
        "kafka.sasl.jaas.config": f"{_SASL[mechanism]} required username={user} password={password};",
    }


def _certificates(kafka: Mapping[str, str]) -> dict[str, str]:
    options = dict[str, str]()
    if kafka.get("enable.ssl.certificate.verification", "true").lower() == "false":
        raise QuestlogError(
            "kafka: Spark always verifies a broker's certificate", hint="set ssl.ca.location to its authority"
        )
    if authority := _pem(kafka, "ssl.ca"):
        options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.certificates": authority}
    chain, key = _pem(kafka, "ssl.certificate"), _pem(kafka, "ssl.key")
    if chain and key:
        options |= {"kafka.ssl.keystore.type": "PEM", "kafka.ssl.keystore.certificate.chain": chain,
                  "kafka.ssl.keystore.key": key}  # fmt: skip
    if "ssl.endpoint.identification.algorithm" in kafka:
        algorithm = kafka["ssl.endpoint.identification.algorithm"]
        options["kafka.ssl.endpoint.identification.algorithm"] = "" if algorithm == "none" else algorithm
    return options


def _pem(kafka: Mapping[str, str], name: str) -> str:
    """Return the value of `NAME.pem`, or the contents of the file at `NAME.location`."""
    if f"{name}.pem" in kafka:
        return kafka[f"{name}.pem"]
    path = kafka.get(f"{name}.location", "")
    if path in ("", "probe"):  # librdkafka probes for the system's authorities, which Java has anyway
        return ""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestlogError(f"kafka: {name}.location: {error}", hint=_HINT) from error


def _quoted(text: str) -> str:
    """Return *text* as a string literal of Java's login configuration."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
