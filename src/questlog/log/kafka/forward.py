"""The forwarder: moves the spool, which is the embedded log, to Kafka, in order; only delivery reports count."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from questlog.errors import LogUnavailable, QuestlogError
from questlog.log import Batch, Entry, Gap, LogReader, Position
from questlog.log.kafka.client import (
    ANSWER_SECONDS,
    open_admin,
    open_consumer,
    open_producer,
    unavailable,
)
from questlog.log.kafka.spool import Spool
from questlog.log.kafka.wire import GROUP, encode_item, sequence_of, spool_partition
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from confluent_kafka import Producer

BATCH_RECORDS = 10_000
BATCH_BYTES = 16 << 20
POLL_SECONDS = 0.05
LANDED_SECONDS = 5.0
_HOUR_MS = 3_600_000

logger = logging.getLogger("questlog.forward")


class Forwarder:
    """Forwards one log folder to one topic. Through any outage of the brokers it waits, reports that, and resumes."""

    def __init__(
        self, log: LogReader, spool: Spool, topic: str, config: Mapping[str, str], *, keep_log_hours: float = 24.0
    ) -> None:
        self._log, self._spool, self._topic, self._config = log, spool, topic, config
        self._keep_ms = int(keep_log_hours * _HOUR_MS)
        self._producer: Producer | None = None
        self._checked = float("-inf")

    def run(self, stop: StopSignal) -> None:
        """Forward until asked to stop; the records logged by then are forwarded if the brokers accept them at once."""
        while not stop.is_set():
            count = self._try_step(stop)
            self._spool.heartbeat()
            if count is None:
                stop.wait(1.0)
            elif not count:
                stop.wait(POLL_SECONDS)
            self._trim_landed()
        self._try_step(stop)
        self._checked = float("-inf")
        self._trim_landed()
        self._drop_producer()

    def drain(self, stop: StopSignal) -> int:
        """Forward everything logged so far, or raise `LogUnavailable`; return how many records that was."""
        total = 0
        while count := self.step(stop):
            total += count
        return total

    def _try_step(self, stop: StopSignal) -> int | None:
        try:
            count = self.step(stop)
        except (LogUnavailable, QuestlogError) as error:
            if self._spool.record_error(str(error), error.hint):
                logger.error("stage=forward waiting, events stay in the spool: %s; try: %s", error, error.hint)
            return None
        if self._spool.clear_error():
            logger.info("stage=forward resumed")
        return count

    def step(self, stop: StopSignal) -> int:
        """Forward one batch.  1 read  2 send  3 wait for every delivery report  4 save how far, last."""
        sent = self._spool.sent
        batch = self._log.read(sent, BATCH_RECORDS, BATCH_BYTES)
        if not batch:
            return 0
        delivery = _DeliveryReports(sent)
        try:
            self._send(batch, delivery, stop)
        finally:
            if delivery.sent != sent:  # also the part that was delivered before an error
                self._spool.save_sent(delivery.sent, delivery.offsets)
        return len(batch.entries)

    def _send(self, batch: Batch, delivery: _DeliveryReports, stop: StopSignal) -> None:
        from confluent_kafka import KafkaException

        producer = self._producer = self._producer or self._open()
        try:
            for item in _in_order(batch):
                while not self._offer(producer, item, delivery):
                    self._await(producer, delivery, stop)
            while delivery.waiting:
                self._await(producer, delivery, stop)
        except KafkaException as error:
            self._drop_producer()  # runs the last reports, which name the refused record
            raise self._refused(delivery, error) from error
        except LogUnavailable:
            self._drop_producer()
            raise
        if delivery.error is not None:
            self._drop_producer()
            raise self._refused(delivery, delivery.error)

    def _refused(self, delivery: _DeliveryReports, error: Any) -> LogUnavailable:
        """Return the error with the position of the first record that has to be sent again."""
        cause = unavailable(self._config, error, self._topic)
        where = [f"(partition {p}, offset {offset} of the spool)" for p, offset in delivery.failed.items()]
        return LogUnavailable(" ".join([str(cause), *where[:1]]), hint=cause.hint, retry_after=1)

    def _offer(self, producer: Producer, item: Entry | Gap, delivery: _DeliveryReports) -> bool:
        """Give one record to the producer; return False if its queue is full."""
        key = spool_partition(self._spool.name, item.partition)
        value, headers = encode_item(key, item)
        try:
            producer.produce(
                self._topic,
                value,
                key.encode(),
                headers=headers,
                on_delivery=delivery.expect(item.partition, sequence_of(item)),
            )
        except BufferError:
            delivery.waiting -= 1
            return False
        return True

    def _await(self, producer: Producer, delivery: _DeliveryReports, stop: StopSignal) -> None:
        """Wait for delivery reports; if none arrives for some time, raise the reason."""
        before, silent = delivery.waiting, time.monotonic()
        while producer.poll(0.1) == 0 or delivery.waiting == before:  # poll also counts events other than reports
            self._spool.heartbeat()
            waited = time.monotonic() - silent
            if stop.is_set() or waited > ANSWER_SECONDS:
                self._diagnose()  # usually raises
                if stop.is_set() or waited > 6 * ANSWER_SECONDS:
                    raise LogUnavailable(
                        f"the brokers answer, but topic {self._topic} does not accept records",
                        hint="questlog topic describe",
                    )

    def _diagnose(self) -> None:
        """Raise what is wrong with the brokers or the topic, as far as they report it."""
        from confluent_kafka import KafkaException

        try:
            topic = open_admin(self._config).list_topics(self._topic, timeout=ANSWER_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise unavailable(self._config, error, self._topic) from error
        if topic.error is not None:
            raise unavailable(self._config, topic.error, self._topic)
        leaderless = [str(p.id) for p in topic.partitions.values() if p.leader < 0]
        if leaderless:
            raise LogUnavailable(
                f"no broker leads partition {', '.join(leaderless)} of topic {self._topic}",
                hint="questlog topic describe",
            )
        lagging = [p for p in topic.partitions.values() if len(p.isrs) < len(p.replicas)]
        if lagging:
            raise LogUnavailable(
                f"{len(lagging)} partition(s) of topic {self._topic} lack replicas, so it accepts no records",
                hint="bring the other brokers back; questlog topic describe",
            )

    def _open(self) -> Producer:
        """Return a producer whose batches fit the topic's limit; raise `LogUnavailable` if there is no topic."""
        from questlog.log.kafka.topic import describe_topic

        topic = describe_topic(self._config, self._topic)
        limit = int(topic.options.get("max.message.bytes", 1 << 20))
        return open_producer(self._config, **{"batch.size": max(1_000, min(1_000_000, limit * 9 // 10))})

    def _drop_producer(self) -> None:
        """Discard records in flight: they are sent again from the last acknowledged position."""
        from confluent_kafka import KafkaException

        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            with contextlib.suppress(KafkaException):  # a purge violates its guarantee, which it reports
                producer.poll(0.1)

    def _trim_landed(self) -> None:
        """Trim landed records from the spool, at most every `LANDED_SECONDS`."""
        if time.monotonic() - self._checked < LANDED_SECONDS or self._producer is None:
            return
        self._checked = time.monotonic()
        try:
            landed = self._spool.save_landed(landed_offsets(self._config, self._topic))
            self._log.trim(landed, time.time_ns() // 1_000_000 - self._keep_ms)
        except LogUnavailable as error:
            logger.debug("stage=forward cannot read the landed offsets: %s", error)


def landed_offsets(config: Mapping[str, str], topic: str) -> Position:
    """Return the end of what the tables hold of each of the topic's partitions, from the lander's consumer group."""
    from confluent_kafka import KafkaException, TopicPartition

    consumer = open_consumer(config, GROUP)
    try:
        partitions = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic].partitions
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        committed = consumer.committed(wanted, timeout=ANSWER_SECONDS) if wanted else []
    except KafkaException as error:
        raise unavailable(config, error, topic) from error
    finally:
        consumer.close()
    return {p.partition: p.offset for p in committed if p.offset > 0}


class _DeliveryReports:
    """Counts delivery reports. `sent` grows without gaps: records after a failed one are sent again."""

    def __init__(self, sent: Position) -> None:
        self.sent = dict(sent)
        self.offsets: dict[int, tuple[int, int]] = {}
        self.failed: dict[int, int] = {}
        self.error: Any = None
        self.waiting = 0

    def expect(self, partition: int, sequence: int) -> Any:
        """Return the callback for the report of one record."""
        self.waiting += 1

        def report(error: Any, message: Any) -> None:
            self.waiting -= 1
            if error is not None:
                self.error = self.error or error
                self.failed.setdefault(partition, sequence)
            elif partition not in self.failed:
                self.sent[partition] = sequence + 1
                self.offsets[partition] = (message.partition(), message.offset() + 1)

        return report


def _in_order(batch: Batch) -> Sequence[Entry | Gap]:
    """Return records and lost parts of the spool in the order of each partition."""
    if not batch.gaps:
        return batch.entries
    return sorted([*batch.entries, *batch.gaps], key=lambda item: (item.partition, sequence_of(item)))
