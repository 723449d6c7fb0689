"""The forwarder: moves the spool, which is the embedded log, to Kafka; in order, and counted on delivery only."""

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
    """Forwards one log folder to one topic. Whatever happens to the brokers, it waits, says so, and goes on."""

    def __init__(
        self, log: LogReader, spool: Spool, topic: str, config: Mapping[str, str], *, keep_log_hours: float = 24.0
    ) -> None:
        self._log, self._spool, self._topic, self._config = log, spool, topic, config
        self._keep_ms = int(keep_log_hours * _HOUR_MS)
        self._producer: Producer | None = None
        self._looked = float("-inf")

    def run(self, stop: StopSignal) -> None:
        """Forward until told to stop; what is logged by then is forwarded if the brokers take it at once."""
        while not stop.is_set():
            count = self._try_step(stop)
            self._spool.heartbeat()
            if count is None:
                stop.wait(1.0)
            elif not count:
                stop.wait(POLL_SECONDS)
            self._look_at_landed()
        self._try_step(stop)
        self._looked = float("-inf")
        self._look_at_landed()
        self._drop_producer()

    def drain(self, stop: StopSignal) -> int:
        """Forward everything logged so far, or raise `LogUnavailable`; return how many records that were."""
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
            logger.info("stage=forward goes on")
        return count

    def step(self, stop: StopSignal) -> int:
        """Forward one batch.  1 read  2 send  3 wait for every delivery report  4 remember, last."""
        sent = self._spool.sent
        batch = self._log.read(sent, BATCH_RECORDS, BATCH_BYTES)
        if not batch:
            return 0
        delivery = _Delivery(sent)
        try:
            self._send(batch, delivery, stop)
        finally:
            if delivery.sent != sent:  # also the part that came through before an error
                self._spool.save_sent(delivery.sent, delivery.offsets)
        return len(batch.entries)

    def _send(self, batch: Batch, delivery: _Delivery, stop: StopSignal) -> None:
        from confluent_kafka import KafkaException

        producer = self._producer = self._producer or self._open()
        try:
            for item in _in_order(batch):
                while not self._offer(producer, item, delivery):
                    self._await(producer, delivery, stop)
            while delivery.waiting:
                self._await(producer, delivery, stop)
        except KafkaException as error:
            self._drop_producer()  # its reports say which record was refused
            raise self._refused(delivery, error) from error
        except LogUnavailable:
            self._drop_producer()
            raise
        if delivery.error is not None:
            self._drop_producer()
            raise self._refused(delivery, delivery.error)

    def _refused(self, delivery: _Delivery, error: Any) -> LogUnavailable:
        """Return what was refused and why, with the place of the first record that has to be sent again."""
        found = unavailable(self._config, error, self._topic)
        where = [f"(partition {p}, offset {offset} of the spool)" for p, offset in delivery.failed.items()]
        return LogUnavailable(" ".join([str(found), *where[:1]]), hint=found.hint, retry_after=1)

    def _offer(self, producer: Producer, item: Entry | Gap, delivery: _Delivery) -> bool:
        """Hand one record to the producer; False if its queue is full."""
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

    def _await(self, producer: Producer, delivery: _Delivery, stop: StopSignal) -> None:
        """Wait for delivery reports; when none comes for long, find out why, and raise."""
        before, silent = delivery.waiting, time.monotonic()
        while producer.poll(0.1) == 0 or delivery.waiting == before:  # poll serves other events than reports too
            self._spool.heartbeat()
            waited = time.monotonic() - silent
            if stop.is_set() or waited > ANSWER_SECONDS:
                self._diagnose()  # raises, as a rule
                if stop.is_set() or waited > 6 * ANSWER_SECONDS:
                    raise LogUnavailable(
                        f"the brokers answer and topic {self._topic} does not take records",
                        hint="questlog topic describe",
                    )

    def _diagnose(self) -> None:
        """Raise what is wrong with the brokers or the topic, if they can be asked."""
        from confluent_kafka import KafkaException

        try:
            found = open_admin(self._config).list_topics(self._topic, timeout=ANSWER_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise unavailable(self._config, error, self._topic) from error
        if found.error is not None:
            raise unavailable(self._config, found.error, self._topic)
        away = [str(p.id) for p in found.partitions.values() if p.leader < 0]
        if away:
            raise LogUnavailable(
                f"no broker leads partition {', '.join(away)} of topic {self._topic}", hint="questlog topic describe"
            )
        thin = [p for p in found.partitions.values() if len(p.isrs) < len(p.replicas)]
        if thin:
            raise LogUnavailable(
                f"{len(thin)} partition(s) of topic {self._topic} miss replicas, and it takes no records",
                hint="bring the other brokers back; questlog topic describe",
            )

    def _open(self) -> Producer:
        """Return a producer whose batches fit what the topic takes; say at once if there is no topic."""
        from questlog.log.kafka.topic import describe_topic

        topic = describe_topic(self._config, self._topic)
        limit = int(topic.options.get("max.message.bytes", 1 << 20))
        return open_producer(self._config, **{"batch.size": max(1_000, min(1_000_000, limit * 9 // 10))})

    def _drop_producer(self) -> None:
        """Give up what is on its way: it is sent again from what the brokers have confirmed."""
        from confluent_kafka import KafkaException

        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            with contextlib.suppress(KafkaException):  # that it was purged breaks its guarantee: it tells so
                producer.poll(0.1)

    def _look_at_landed(self) -> None:
        """Forget of the spool what the tables hold, seldom."""
        if time.monotonic() - self._looked < LANDED_SECONDS or self._producer is None:
            return
        self._looked = time.monotonic()
        try:
            landed = self._spool.save_landed(landed_offsets(self._config, self._topic))
            self._log.trim(landed, time.time_ns() // 1_000_000 - self._keep_ms)
        except LogUnavailable as error:
            logger.debug("stage=forward cannot ask what is landed: %s", error)


def landed_offsets(config: Mapping[str, str], topic: str) -> Position:
    """Return how much of each of the topic's partitions the tables hold: the lander commits it to its group."""
    from confluent_kafka import KafkaException, TopicPartition

    consumer = open_consumer(config, GROUP)
    try:
        partitions = consumer.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic].partitions
        asked = [TopicPartition(topic, partition) for partition in partitions]
        found = consumer.committed(asked, timeout=ANSWER_SECONDS) if asked else []
    except KafkaException as error:
        raise unavailable(config, error, topic) from error
    finally:
        consumer.close()
    return {p.partition: p.offset for p in found if p.offset > 0}


class _Delivery:
    """Counts delivery reports. `sent` grows only without holes: what comes behind an error is sent again."""

    def __init__(self, sent: Position) -> None:
        self.sent = dict(sent)
        self.offsets: dict[int, tuple[int, int]] = {}
        self.failed: dict[int, int] = {}
        self.error: Any = None
        self.waiting = 0

    def expect(self, partition: int, sequence: int) -> Any:
        """Return what takes the report of one record."""
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
    """Return records, and lost parts of the spool, as they follow each other in each partition."""
    if not batch.gaps:
        return batch.entries
    return sorted([*batch.entries, *batch.gaps], key=lambda item: (item.partition, sequence_of(item)))
