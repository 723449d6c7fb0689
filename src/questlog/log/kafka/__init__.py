"""A Kafka topic as a log: `append` returns once the brokers have acknowledged, `read` uses partition and offset.

In the cluster profile events reach the topic through the forwarder (`forward.py`). This is for reading the topic
outside Spark, and for other programs that write to it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questlog.durable import FileLock, make_folder
from questlog.errors import LogUnavailable, NotPermitted
from questlog.log import START, Batch, Entry, Gap, Position
from questlog.log.kafka.client import (
    ANSWER_SECONDS,
    open_admin,
    open_consumer,
    open_producer,
    unavailable,
    watermarks,
    where,
)

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

UNLIMITED = 2**62
_CHUNK = 1_000


class KafkaLog:
    """Implements `Log` on an existing topic; safe for many threads and processes.

    Each appending process writes to its own partition: *claims* is a folder of lock files that the processes of
    one machine share. If there are more processes than partitions, the rest share the last one.
    """

    def __init__(self, topic: str, config: Mapping[str, str], claims: Path) -> None:
        self.topic, self.config = topic, config
        self._claims = claims
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._pid = os.getpid()
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None
        self._partition = -1
        self._claim: FileLock | None = None

    # -- writing ---------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Position:
        """Return only once every in-sync replica has every record: `acks=all` is Kafka's durability.

        After an error nothing was acknowledged, but some of the records may be in the topic.
        """
        if not records:
            return START
        for record in records:
            if b"\n" in record:
                raise ValueError("a record is one line and cannot contain a line break")
        self._check_fork()
        with self._lock:  # keeps the records of one append together
            producer, partition = self._writer()
            delivery = _AppendReports(len(records))
            for record in records:
                producer.produce(self.topic, record, partition=partition, on_delivery=delivery)
        while not delivery.finished:
            if producer.poll(ANSWER_SECONDS) == 0 and not delivery.finished:
                self._explain_silence()
        if delivery.error is not None:
            self._drop_producer(producer)
            raise unavailable(self.config, delivery.error, self.topic)
        return {partition: delivery.end}

    def _writer(self) -> tuple[Producer, int]:
        if self._producer is None:
            partitions = self._partitions()
            self._producer = open_producer(self.config)
            self._partition, self._claim = _claim(self._claims, partitions)
        return self._producer, self._partition

    def _explain_silence(self) -> None:
        """Raise if no broker answers: a record that arrives later is in the topic, but was not acknowledged."""
        try:
            self._partitions()
        except LogUnavailable:
            self._drop_producer(self._producer)
            raise

    def _drop_producer(self, producer: Producer | None) -> None:
        """Discard undelivered records: `append` has reported them as failed."""
        from confluent_kafka import KafkaException

        if producer is None:
            return
        with self._lock:
            ours = self._producer is producer
            if ours:
                self._release()
        if not ours:
            return
        producer.purge()
        with contextlib.suppress(KafkaException):
            producer.poll(0)

    # -- reading and trimming --------------------------------------------------------------------

    def read(self, after: Position, limit: int, max_bytes: int = UNLIMITED) -> Batch:
        """Return about *limit* records past *after*, in order per partition; partitions take turns."""
        self._check_fork()
        with self._reading:
            ends = self._watermarks()
            self._refuse_going_back(after, ends)
            batch = _Reading(after, ends)
            consumer = self._reader()
            while (turn := batch.waiting()) and batch.taken < limit and batch.size < max_bytes:
                share = max(1, -(-(limit - batch.taken) // len(turn)))
                for partition in turn:
                    self._take(consumer, batch, partition, min(share, limit - batch.taken), max_bytes)
            return batch.result()

    def _take(self, consumer: Consumer, batch: _Reading, partition: int, count: int, max_bytes: int) -> None:
        """Read up to *count* records of one partition into *batch*."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        try:
            consumer.assign([TopicPartition(self.topic, partition, batch.through[partition])])
            while count > 0 and batch.size < max_bytes and partition in batch.waiting():
                first = consumer.poll(ANSWER_SECONDS)
                if first is None:
                    raise LogUnavailable(f"Kafka at {where(self.config)} returns no records", retry_after=1)
                messages = [first]
                if min(count, _CHUNK) > 1:  # only what was fetched with it: asking for more would wait for all of it
                    messages += consumer.consume(min(count, _CHUNK) - 1, 0)
                for message in messages:
                    if count <= 0 or batch.size >= max_bytes:
                        break
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        batch.end(partition, message.offset() or 0)
                    elif error is not None:
                        raise unavailable(self.config, error, self.topic)
                    else:
                        batch.add(partition, message)
                        count -= 1
        except KafkaException as error:
            raise unavailable(self.config, error, self.topic) from error
        finally:
            consumer.unassign()

    def _refuse_going_back(self, after: Position, ends: Mapping[int, tuple[int, int]]) -> None:
        for partition, offset in after.items():
            if offset > ends.get(partition, (0, 0))[1]:
                raise LogUnavailable(
                    f"the log went backwards: partition {partition} of topic {self.topic} ends before {offset}",
                    hint="it is another topic than before, or it was recreated",
                )

    def end(self) -> Position:
        """Return the position after the last durable record; partitions without records are left out."""
        self._check_fork()
        with self._reading:
            return {partition: end for partition, (_, end) in self._watermarks().items() if end}

    def trim(self, before: Position, older_than_ms: int) -> int:
        """Delete landed records below *before* that arrived before *older_than_ms*; return how many.

        Not needed if the topic has its own retention.
        """
        from confluent_kafka import KafkaException, TopicPartition

        self._check_fork()
        with self._reading:
            firsts = {p: first for p, (first, _) in self._watermarks().items()}
            times = [TopicPartition(self.topic, p, min(older_than_ms, UNLIMITED)) for p in before if p in firsts]
            if not times:
                return 0
            try:
                offsets = self._reader().offsets_for_times(times, timeout=ANSWER_SECONDS)
                until = {p.partition: min(before[p.partition], _until(p.offset)) for p in offsets}
                ready = [TopicPartition(self.topic, p, o) for p, o in until.items() if o > firsts[p]]
                admin = open_admin(self.config)  # kept in a variable: freeing it cancels its requests
                for future in admin.delete_records(ready).values() if ready else ():
                    future.result(ANSWER_SECONDS)
            except KafkaException as error:
                raise unavailable(self.config, error, self.topic) from error
        return sum(p.offset - firsts[p.partition] for p in ready)

    # -- inside ----------------------------------------------------------------------------------

    def _reader(self) -> Consumer:
        if self._consumer is None:
            self._consumer = open_consumer(self.config)
        return self._consumer

    def _partitions(self) -> list[int]:
        from confluent_kafka import KafkaException

        try:
            metadata = self._reader().list_topics(self.topic, timeout=ANSWER_SECONDS).topics[self.topic]
        except KafkaException as error:
            raise unavailable(self.config, error, self.topic) from error
        if metadata.error is not None:
            raise unavailable(self.config, metadata.error, self.topic)
        return sorted(metadata.partitions)

    def _watermarks(self) -> dict[int, tuple[int, int]]:
        from confluent_kafka import KafkaException

        consumer = self._reader()
        try:
            return {p: watermarks(consumer, self.topic, p) for p in self._partitions()}
        except KafkaException as error:
            raise unavailable(self.config, error, self.topic) from error

    def close(self) -> None:
        """Release the partition; the next use opens everything again."""
        self._check_fork()
        with self._lock, self._reading:
            self._release()
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _release(self) -> None:
        self._producer = None
        if self._claim is not None:
            self._claim.release()
        self._claim, self._partition = None, -1

    def _check_fork(self) -> None:
        """Start over in a forked child: librdkafka's threads were not copied, and the parent must keep its lock."""
        if self._pid != os.getpid():
            _abandoned.append((self._producer, self._consumer, self._claim))
            self.__init__(self.topic, self.config, self._claims)  # type: ignore[misc]


_abandoned: list[Any] = []
"""What a forked child inherited: freeing it would wait for threads that do not exist there."""


class _AppendReports:
    """Counts the delivery reports of one append."""

    def __init__(self, waiting: int) -> None:
        self.waiting, self.end = waiting, 0
        self.error: Any = None

    def __call__(self, error: Any, message: Any) -> None:
        if error is not None:
            self.error = self.error or error
        else:
            self.end = max(self.end, message.offset() + 1)
        self.waiting -= 1

    @property
    def finished(self) -> bool:
        return self.waiting <= 0


class _Reading:
    """One read in progress: the records of each partition so far, and the position behind them."""

    def __init__(self, after: Position, ends: Mapping[int, tuple[int, int]]) -> None:
        self.through = dict(after)
        self.taken = self.size = 0
        self._ends = {p: end for p, (_, end) in ends.items()}
        self._entries: dict[int, list[Entry]] = {}
        self._gaps = []
        for partition, (first, end) in ends.items():
            start = after.get(partition, 0)
            if start < first:
                self._gaps.append(Gap(partition, start, first, "deleted by the topic's retention"))
            if start < max(first, end):
                self.through[partition] = max(start, first)

    def waiting(self) -> list[int]:
        """Return the partitions that have more records."""
        return [p for p, end in self._ends.items() if self.through.get(p, 0) < end]

    def add(self, partition: int, message: Any) -> None:
        value = message.value() or b""
        self._entries.setdefault(partition, []).append(
            Entry(partition, message.offset(), value, message.timestamp()[1])
        )
        self.through[partition] = message.offset() + 1
        self.taken += 1
        self.size += len(value)

    def end(self, partition: int, offset: int) -> None:
        """Stop here: what follows belongs to a transaction that is still open."""
        self.through[partition] = self._ends[partition] = max(self.through[partition], offset)

    def result(self) -> Batch:
        return Batch(
            [e for _, entries in sorted(self._entries.items()) for e in entries], self.through, tuple(self._gaps)
        )


def _until(offset: int) -> int:
    """Return an offset found by time; a negative one means that every record is older."""
    return offset if offset >= 0 else UNLIMITED


def _claim(folder: Path, partitions: Sequence[int]) -> tuple[int, FileLock | None]:
    """Return a partition that no other process on this machine writes to, and the lock that claims it."""
    make_folder(folder)
    for partition in partitions:
        lock = FileLock(folder / f"kafka-{partition}.lock")
        with contextlib.suppress(NotPermitted):  # another user's: not ours
            if lock.take():
                return partition, lock
        lock.release()
    return partitions[-1], None
