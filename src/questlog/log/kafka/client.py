"""Kafka clients: settings that the user cannot weaken, and errors in plain words."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from questlog.errors import LogUnavailable, NotInstalled, QuestlogError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer
    from confluent_kafka.admin import AdminClient

BOOTSTRAP = "127.0.0.1:9092"
ANSWER_SECONDS = 5.0
"""How long a broker may take to answer before it counts as unreachable."""

logger = logging.getLogger("questlog.kafka")
_quiet = logging.getLogger("questlog.kafka.client")
_quiet.setLevel(logging.CRITICAL + 1)  # librdkafka repeats itself every second; we log each error once, in words

_PROMISE = {"acks": ("all", "-1"), "enable.idempotence": ("true",), "enable.gapless.guarantee": ("true",)}
"""What exactly-once delivery depends on: the user's settings may not change it."""
_PRODUCER = {
    "acks": "all",
    "enable.idempotence": "true",
    # Without it, a record that a broker rejects is skipped and later ones are written. Sent again, it would be
    # below the highest landed sequence, and be dropped as a repeat.
    "enable.gapless.guarantee": "true",
    "message.timeout.ms": "0",  # a record waits for its broker, however long the outage
    "linger.ms": "2",
    "compression.type": "lz4",
    "message.max.bytes": "100000000",  # the broker enforces the topic's own limit
    "reconnect.backoff.max.ms": "1000",
}
_CONSUMER = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "error",
    "enable.partition.eof": "true",
    "isolation.level": "read_committed",
    "reconnect.backoff.max.ms": "1000",
    "fetch.wait.max.ms": "50",
}


def open_producer(config: Mapping[str, str], **more: Any) -> Producer:
    """Return a producer that never loses, duplicates or reorders a record during its lifetime."""
    library = _import()
    for key, allowed in _PROMISE.items():
        if config.get(key, allowed[0]).lower() not in allowed:
            raise QuestlogError(
                f"kafka: {key} = {config[key]!r} could lose or duplicate events", hint=f"remove kafka.{key}"
            )
    producer: Producer = _made(library.Producer, {**_PRODUCER, **_base(config), **more})
    return producer


def open_consumer(config: Mapping[str, str], group: str = "questlog-reader", **more: Any) -> Consumer:
    """Return a consumer that reads only what it is assigned, and commits nothing by itself."""
    consumer: Consumer = _made(_import().Consumer, {**_CONSUMER, "group.id": group, **_shared(config), **more})
    return consumer


def open_admin(config: Mapping[str, str]) -> AdminClient:
    """Return a client for topics and groups."""
    _import()
    from confluent_kafka.admin import AdminClient

    admin: AdminClient = _made(AdminClient, _shared(config))
    return admin


def _base(config: Mapping[str, str]) -> dict[str, Any]:
    return {"bootstrap.servers": BOOTSTRAP, **config, "logger": _quiet}


def _shared(config: Mapping[str, str]) -> dict[str, Any]:
    """Return the keys about addresses and credentials; the others are for the producer only."""
    kept = ("bootstrap.", "security.", "sasl.", "ssl.", "socket.", "broker.address.", "client.", "api.version.")
    return {key: value for key, value in _base(config).items() if key == "logger" or key.startswith(kept)}


def _import() -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise NotInstalled("the Kafka client is not installed", hint="pip install 'questlog[kafka]'") from error
    return confluent_kafka


def _made(kind: Any, config: dict[str, Any]) -> Any:
    """Return `kind(config)`; raise `QuestlogError` for a key that librdkafka rejects."""
    from confluent_kafka import KafkaException

    try:
        return kind(config)
    except KafkaException as error:
        raise QuestlogError(f"kafka: {error.args[0].str()}", hint="see [kafka] in questlog.toml") from error


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Return a partition's first offset and its end; wait for a leader that is being elected."""
    from confluent_kafka import KafkaError, KafkaException, TopicPartition

    moving = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_LEADER_EPOCH)
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS)
        except KafkaException as error:
            if error.args[0].code() not in moving or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            consumer.list_topics(topic, timeout=ANSWER_SECONDS)  # finds the new leader
        else:
            return first, end


def where(config: Mapping[str, str]) -> str:
    """Return the brokers' addresses, for a message."""
    return config.get("bootstrap.servers", BOOTSTRAP)


def unavailable(config: Mapping[str, str], error: Any, topic: str = "") -> LogUnavailable:
    """Return a `KafkaException` or a `KafkaError` as an error that says what went wrong and what to do."""
    from confluent_kafka import KafkaException

    cause: KafkaError = error.args[0] if isinstance(error, KafkaException) else error
    if cause.code() in _no_answer():
        cause = refusal(config) or cause
    text, hint = _words(cause, where(config), topic)
    return LogUnavailable(text, hint=hint, retry_after=ANSWER_SECONDS)


def refusal(config: Mapping[str, str]) -> KafkaError | None:
    """Return why a broker that seems not to answer refuses us, or None if it does not.

    A broker that rejects our password or certificate closes the connection, and the request then times out.
    """
    from confluent_kafka import KafkaError

    if "security.protocol" not in config:
        return None
    errors: list[KafkaError] = []
    client = _made(_import().Producer, {**_shared(config), "error_cb": errors.append})
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        client.poll(0.1)
        for error in errors:
            if error.code() in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL):
                return error
    return None


def _no_answer() -> tuple[int, ...]:
    """Return the error codes of a broker that did not answer."""
    from confluent_kafka import KafkaError

    return (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE)


def _words(error: KafkaError, servers: str, topic: str) -> tuple[str, str]:
    from confluent_kafka import KafkaError

    code = error.code()
    if code in _no_answer():
        return f"Kafka at {servers} does not answer: {error.str()}", "is it running? questlog stack status"
    if code in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION):
        return f"topic {topic} does not exist on {servers}", "questlog topic create"
    # A violation of the gapless guarantee is reported as such, with its cause only in the text.
    if code == KafkaError.MSG_SIZE_TOO_LARGE or "Message size too large" in error.str():
        return f"a record is larger than topic {topic} accepts", "run questlog topic create to raise the topic's limit"
    if code in (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED):
        return f"Kafka at {servers} rejects the credentials: {error.str()}", "see sasl… in [kafka] of questlog.toml"
    if code == KafkaError._SSL:
        return f"Kafka at {servers}: {error.str()}", "see ssl.ca.location in [kafka] of questlog.toml"
    if code in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
        return f"Kafka at {servers} denies access: {error.str()}", f"allow this user to write to topic {topic}"
    if code in (KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND):
        return f"topic {topic} has too few in-sync replicas", "bring the other brokers back"
    return f"Kafka at {servers}: {error.str()}", "questlog status"
