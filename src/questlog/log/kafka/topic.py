"""The topic that events go to: creates it, updates its options to the settings, and describes it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from questlog.errors import LogUnavailable, QuestlogError
from questlog.log import Position
from questlog.log.kafka.client import ANSWER_SECONDS, open_admin, open_consumer, unavailable, watermarks

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

RECORD_BYTES = 64 << 20
"""The largest record that the log accepts; the topic accepts it too, so that no record blocks the forwarder."""
WORK_SECONDS = 30.0
"""How long the brokers may take for an administrative request."""
TRY_SECONDS = 10.0
"""How long one client may take, where another one may succeed."""
_TRY = {"request_timeout": TRY_SECONDS}
_KEPT = ("retention.ms", "max.message.bytes", "message.timestamp.type", "min.insync.replicas")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition as the brokers describe it. `leader` is -1 while it has none."""

    id: int
    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `options` are those that questlog sets."""

    name: str
    partitions: tuple[Partition, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many offsets lie between the first and the end."""
        return sum(p.end - p.first for p in self.partitions)


def create_topic(
    config: Mapping[str, str], name: str, *, partitions: int, replication: int, retention_hours: float
) -> list[str]:
    """Create the topic, or update its options; return what was changed.

    The number of partitions never changes: the key of an event determines its partition, and the order depends on it.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    wanted = {
        "retention.ms": str(int(retention_hours * 3_600_000)) if retention_hours else "-1",
        "max.message.bytes": str(RECORD_BYTES + (1 << 20)),
        # Retention counts from the broker's time: a record that waited in a spool is not old when it arrives.
        "message.timestamp.type": "LogAppendTime",
    }
    if replication > 2:
        wanted["min.insync.replicas"] = "2"
    admin = open_admin(config)
    try:
        # Fails soon if no broker answers; a broker that is only busy may take longer below.
        admin.list_topics(name, timeout=ANSWER_SECONDS)
    except KafkaException as error:
        raise unavailable(config, error, name) from error
    new = NewTopic(name, num_partitions=partitions, replication_factor=replication, config=wanted)
    try:
        _request(config, lambda admin: admin.create_topics([new], operation_timeout=WORK_SECONDS, **_TRY))
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise _refused(config, error, name) from error
    else:
        _await_leaders(config, name)
        return [f"created with {partitions} partition(s), {replication} replica(s)"]
    return _bring_up_to_date(config, name, wanted, partitions)


def _await_leaders(config: Mapping[str, str], name: str) -> None:
    """Return once the brokers list the topic: used earlier, it would be reported as missing."""
    deadline = time.monotonic() + WORK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(LogUnavailable):
            if all(p.leader >= 0 for p in describe_topic(config, name).partitions):
                return
        time.sleep(0.05)


def _bring_up_to_date(config: Mapping[str, str], name: str, wanted: Mapping[str, str], partitions: int) -> list[str]:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

    topic = describe_topic(config, name)
    changed = {key: value for key, value in wanted.items() if topic.options.get(key) != value}
    done = [f"{key}: {topic.options.get(key)} -> {value}" for key, value in changed.items()]
    if changed:
        entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in changed.items()]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        _request(config, lambda admin: admin.incremental_alter_configs([resource], **_TRY), name)
    if len(topic.partitions) != partitions:
        done.append(
            f"stays at {len(topic.partitions)} partition(s); the settings ask for {partitions}, but the number is fixed"
        )
    return done


def describe_topic(config: Mapping[str, str], name: str) -> Topic:
    """Return the topic; raise `LogUnavailable` if it does not exist or no broker answers."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource

    admin = open_admin(config)
    try:
        metadata = admin.list_topics(name, timeout=ANSWER_SECONDS).topics[name]
        if metadata.error is not None:
            raise unavailable(config, metadata.error, name)
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        options = _request(config, lambda admin: admin.describe_configs([resource], **_TRY), name)
        consumer = open_consumer(config)
        try:
            partitions = []
            for number, p in sorted(metadata.partitions.items()):
                first, end = watermarks(consumer, name, number)
                partitions.append(Partition(number, p.leader, tuple(p.replicas), tuple(p.isrs), first, end))
        finally:
            consumer.close()
    except KafkaException as error:
        raise unavailable(config, error, name) from error
    return Topic(name, tuple(partitions), {key: options[key].value for key in _KEPT if key in options})


def topic_exists(config: Mapping[str, str], name: str) -> bool:
    """Return whether the topic exists; raise `LogUnavailable` if no broker answers."""
    admin = open_admin(config)  # before the next import: it explains what to install
    from confluent_kafka import KafkaException

    try:
        return name in admin.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise unavailable(config, error, name) from error


def oldest_ms(config: Mapping[str, str], name: str, offsets: Mapping[int, int]) -> int | None:
    """Return when the oldest of the records at *offsets* (by partition) arrived; None if none can be read."""
    from confluent_kafka import KafkaException, TopicPartition

    consumer = open_consumer(config)
    times, deadline = dict[int, int](), time.monotonic() + ANSWER_SECONDS
    try:
        consumer.assign([TopicPartition(name, partition, offset) for partition, offset in offsets.items()])
        while len(times) < len(offsets) and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                times.setdefault(message.partition(), message.timestamp()[1])
    except KafkaException as error:
        raise unavailable(config, error, name) from error
    finally:
        consumer.close()
    return min(times.values(), default=None)


def offsets_at(config: Mapping[str, str], topic: Topic, ms: int) -> Position:
    """Return the first offset of each partition with a broker timestamp of *ms* or later; its end if there is none."""
    from confluent_kafka import KafkaException, TopicPartition

    consumer = open_consumer(config)
    try:
        times = [TopicPartition(topic.name, p.id, ms) for p in topic.partitions]
        offsets = consumer.offsets_for_times(times, timeout=ANSWER_SECONDS) if times else []
    except KafkaException as error:
        raise unavailable(config, error, topic.name) from error
    finally:
        consumer.close()
    ends = {p.id: p.end for p in topic.partitions}
    return {p.partition: p.offset if p.offset >= 0 else ends[p.partition] for p in offsets}


def _request(
    config: Mapping[str, str], send: Callable[[AdminClient], Mapping[Any, Future[Any]]], name: str = ""
) -> Any:
    """Return the one answer to a request; without a *name*, raise a refusal as it is.

    Brokers that have not yet noticed the death of another one may refer a client to it, and the client asks no other.
    So a request without an answer is sent again, by a new client, until `WORK_SECONDS` are over.
    """
    from confluent_kafka import KafkaError, KafkaException

    deadline = time.monotonic() + WORK_SECONDS
    while True:
        admin = open_admin(config)
        (future,) = send(admin).values()
        try:
            return future.result(WORK_SECONDS)
        except TimeoutError as error:
            raise unavailable(config, KafkaError(KafkaError._TIMED_OUT), name) from error
        except KafkaException as error:
            if error.args[0].code() == KafkaError._TIMED_OUT and time.monotonic() < deadline:
                continue
            if not name:
                raise
            raise unavailable(config, error, name) from error


def _refused(config: Mapping[str, str], error: Any, name: str) -> QuestlogError:
    from confluent_kafka import KafkaError

    cause = error.args[0]
    if cause.code() in (
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_CONFIG,
    ):
        return QuestlogError(
            f"Kafka refuses topic {name}: {cause.str()}", hint="topic_partitions, topic_replication in questlog.toml"
        )
    return unavailable(config, error, name)
