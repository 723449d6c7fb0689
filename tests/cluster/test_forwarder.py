"""The spool reaches Kafka completely and in order, whatever fails: a broker, the topic or the forwarder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from questlog.errors import LanderBusy
from questlog.log.kafka.forward import Forwarder
from questlog.log.kafka.spool import Spool, read_forwarding
from questlog.log.kafka.topic import create_topic
from questlog.log.kafka.wire import GROUP
from questlog.log.sqlite import SqliteLog
from questlog.record import encode_record
from support.cluster.kafka_broker import Broker
from support.waiting import until

FOREVER = 2**62


class Game:
    """A log that is a spool, its topic, and a forwarder that runs on request."""

    def __init__(self, folder: Path, broker: Broker, *, make_topic: bool = True) -> None:
        self.data, self.broker = folder, broker
        self.topic = f"events-{folder.name}-{folder.stat().st_ino}"
        self.config = {"bootstrap.servers": broker.address}
        self.log = SqliteLog(folder / "log", min_free_bytes=0)
        self.sent = 0
        if make_topic:
            self.make_topic()

    def make_topic(self) -> None:
        create_topic(self.config, self.topic, partitions=3, replication=1, retention_hours=1)

    def send(self, count: int, size: int = 0) -> None:
        for number in range(self.sent, self.sent + count):
            event = json.dumps({"event_type": "default", "number": number, "pad": "x" * size}).encode()
            self.log.append([encode_record(event, id=f"e{number}", received_ms=1)])
        self.sent += count

    @contextmanager
    def forwarding(self, keep_log_hours: float = 24.0) -> Iterator[None]:
        stop = threading.Event()

        def run() -> None:
            with Spool(self.data, self.data / "log") as spool:
                Forwarder(self.log, spool, self.topic, self.config, keep_log_hours=keep_log_hours).run(stop)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)
            assert not thread.is_alive()

    @property
    def forwarded(self) -> int:
        return sum(read_forwarding(self.data, self.data / "log").sent.values())

    @property
    def error(self) -> str:
        error = read_forwarding(self.data, self.data / "log").error
        return f"{error.text} | {error.hint}" if error else ""

    def await_all(self) -> None:
        until(lambda: self.forwarded == self.sent, f"{self.sent} forwarded; error: {self.error}", 90)

    def messages(self) -> list[Any]:
        """Return every message of the topic, partition by partition."""
        consumer = Consumer({**self.config, "group.id": "test", "enable.partition.eof": "true"})
        messages = []
        for partition in range(3):
            consumer.assign([TopicPartition(self.topic, partition, 0)])
            while (message := consumer.poll(20)) is not None and message.error() is None:
                messages.append(message)
            assert message is not None, "the broker answers"
        consumer.close()
        return messages

    def landed_numbers(self) -> list[int]:
        """Return what a lander would land: per spool partition, the records above the highest sequence so far."""
        highest: dict[bytes, int] = {}
        numbers = []
        for message in self.messages():
            headers = dict(message.headers())
            spool, sequence = headers["spool"], int(headers["sequence"])
            if sequence > highest.get(spool, -1):
                assert sequence == highest.get(spool, -1) + 1, "a gap: the record that fills it later would be dropped"
                highest[spool] = sequence
                numbers.append(json.loads(message.value())["event"]["number"])
        return numbers


@pytest.fixture
def game(tmp_path: Path, broker: Broker) -> Iterator[Game]:
    game = Game(tmp_path, broker)
    yield game
    game.log.close()


def test_records_arrive_in_order_as_json_with_spool_and_sequence(game: Game) -> None:
    game.send(300)
    with game.forwarding():
        game.await_all()
    messages = game.messages()
    assert [json.loads(m.value())["event"]["number"] for m in messages] == list(range(300))
    name = read_forwarding(game.data, game.data / "log").name
    assert {m.key().decode() for m in messages} == {f"{name}.{p}" for p in game.log.end()}
    assert [int(dict(m.headers())["sequence"]) for m in messages] == list(range(300))
    assert {m.partition() for m in messages} == {messages[0].partition()}


def test_status_names_a_killed_broker_and_the_spool_drains_when_it_returns(game: Game) -> None:
    game.send(100)
    with game.forwarding():
        game.await_all()
        game.broker.kill()
        try:
            game.send(200)
            until(lambda: "does not answer" in game.error, "the error is recorded", 30)
            assert game.broker.address in game.error
        finally:
            game.broker.start()
        game.await_all()
        until(lambda: game.error == "", "the error is cleared")
    assert game.landed_numbers() == list(range(300))


def test_a_frozen_broker_only_costs_time(game: Game) -> None:
    game.send(50)
    with game.forwarding():
        game.await_all()
        game.broker.freeze()
        try:
            game.send(100)
            until(lambda: "does not answer" in game.error, "the error is recorded", 30)
        finally:
            game.broker.thaw()
        game.await_all()
    assert game.landed_numbers() == list(range(150))


def test_without_a_topic_events_wait_and_status_gives_a_hint(tmp_path: Path, broker: Broker) -> None:
    game = Game(tmp_path, broker, make_topic=False)
    game.send(10)
    with game.forwarding():
        until(lambda: "does not exist" in game.error, "the error is recorded", 30)
        assert "questlog topic create" in game.error
        game.make_topic()
        game.await_all()
    assert game.landed_numbers() == list(range(10))


def test_a_record_too_large_for_the_topic_waits_in_order_until_the_limit_is_raised(game: Game) -> None:
    resource = ConfigResource(ConfigResource.Type.TOPIC, game.topic, incremental_configs=[
        ConfigEntry("max.message.bytes", "20000", incremental_operation=AlterConfigOpType.SET)])  # fmt: skip
    admin = AdminClient({**game.config})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    game.send(20)
    event = json.dumps({"event_type": "default", "number": 20, "pad": os.urandom(60_000).hex()}).encode()
    game.log.append([encode_record(event, id="big", received_ms=1)])
    game.sent += 1
    game.send(20)
    with game.forwarding():
        until(lambda: "larger than topic" in game.error, f"another error is recorded: {game.error}", 60)
        assert "offset 20 of the spool" in game.error
        until(lambda: game.forwarded == 20, "the records before it are forwarded")
        game.make_topic()
        game.await_all()
    assert game.landed_numbers() == list(range(41))


def test_a_broker_with_a_full_disk_only_costs_time(tmp_path: Path) -> None:
    """Kafka stops when it cannot write its log; restarted with free space, it accepts every record."""
    from support import disks

    if reason := disks.why_not(tmp_path / "trial"):
        pytest.skip(reason)
    with disks.Disk(tmp_path / "small", 96) as disk:
        broker = Broker(tmp_path / "kafka", data=disk.path / "data")
        try:
            (tmp_path / "game").mkdir()
            game = Game(tmp_path / "game", broker)
            game.send(50)
            with game.forwarding():
                game.await_all()
                ballast = disks.fill(disk.path)
                game.send(300, size=20_000)
                until(lambda: game.error != "", "an error is recorded", 60)
                ballast.unlink()
                if broker.process.poll() is None:
                    broker.kill()
                broker.start()
                game.await_all()
                until(lambda: game.error == "", "the error is cleared")
            assert game.landed_numbers() == list(range(350))
            game.log.close()
        finally:
            broker.kill()


def test_a_request_is_repeated_while_the_brokers_refer_to_a_dead_one(broker: Broker, tmp_path: Path) -> None:
    config = {"bootstrap.servers": broker.address}
    create_topic(config, "asked-again", partitions=1, replication=1, retention_hours=1)
    second = Broker(tmp_path / "second", first=broker)
    admin = AdminClient(config)
    try:
        until(lambda: len(admin.list_topics(timeout=5).brokers) == 2, "both brokers are listed")
    finally:
        second.kill()
    attempts = 0
    while len(AdminClient(config).list_topics(timeout=5).brokers) == 2:
        assert create_topic(config, "asked-again", partitions=1, replication=1, retention_hours=1) == []
        attempts += 1
    assert attempts, "the moment was missed"


def test_the_order_is_kept_when_another_broker_becomes_the_leader(broker: Broker, tmp_path: Path) -> None:
    second = Broker(tmp_path / "second", first=broker)
    try:
        (tmp_path / "game").mkdir()
        game = Game(tmp_path / "game", broker, make_topic=False)
        topic = NewTopic(game.topic, num_partitions=3, replica_assignment=[[second.node, broker.node]] * 3)
        admin = AdminClient(game.config)
        until(lambda: len(admin.list_topics(timeout=5).brokers) == 2, "both brokers are listed")
        admin.create_topics([topic])[game.topic].result(20)
        game.send(200)
        with game.forwarding():
            game.await_all()
            second.kill()
            game.send(200)
            game.await_all()
            leaders = {
                p.leader for p in admin.list_topics(game.topic, timeout=5).topics[game.topic].partitions.values()
            }
            assert leaders == {broker.node}
            second.start()
            game.send(200)
            game.await_all()
        assert game.landed_numbers() == list(range(600))
        game.log.close()
    finally:
        second.kill()
        until(lambda: len(admin.list_topics(timeout=5).brokers) == 1, "no topic is created on the dead one")


PROGRAM = """
import sys, threading
from pathlib import Path
from questlog.log.kafka.forward import Forwarder
from questlog.log.kafka.spool import Spool
from questlog.log.sqlite import SqliteLog
data, topic, servers = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Spool(data, data / "log") as spool:
    log = SqliteLog(data / "log", min_free_bytes=0)
    Forwarder(log, spool, topic, {"bootstrap.servers": servers}).run(threading.Event())
"""


def test_a_forwarder_killed_at_any_moment_leaves_no_gap_and_keeps_the_order(game: Game) -> None:
    game.send(2_000)
    for least in (0, -1):
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(game.data), game.topic, game.broker.address])
        until(lambda least=least: game.forwarded > least, "it has begun")
        child.kill()
        child.wait()
        game.send(1_000)
    (game.data / "forward.db").unlink()  # the worst case: it no longer knows what it sent
    with game.forwarding():
        game.await_all()
    assert len(game.messages()) > game.sent
    assert game.landed_numbers() == list(range(game.sent))


def test_a_second_forwarder_of_a_spool_is_refused(game: Game) -> None:
    with (
        Spool(game.data, game.data / "log"),
        pytest.raises(LanderBusy, match="another process forwards"),
        Spool(game.data, game.data / "log"),
    ):
        pass


def test_a_copied_log_gets_a_new_name(game: Game, tmp_path: Path) -> None:
    """Two machines made from one image must not use the same sequences for different events."""
    with Spool(game.data, game.data / "log") as spool:
        first = spool.name
    with Spool(game.data, game.data / "log") as spool:
        assert spool.name == first
    shutil.copytree(game.data / "log", tmp_path / "copy" / "log")
    with Spool(tmp_path / "copy", tmp_path / "copy" / "log") as spool:
        assert spool.name != first


def test_the_spool_is_trimmed_only_after_its_records_have_landed(game: Game) -> None:
    small = SqliteLog(game.data / "log", min_free_bytes=0, segment_bytes=1, trim_grace_seconds=0)
    game.log.close()
    game.log = small
    game.send(30)
    with game.forwarding(keep_log_hours=0):
        game.await_all()
        assert small.read({}, FOREVER).entries[0].offset == 0
        message = game.messages()[19]
        consumer = Consumer({**game.config, "group.id": GROUP})
        consumer.commit(offsets=[TopicPartition(game.topic, message.partition(), FOREVER >> 32)], asynchronous=False)
        consumer.close()
        until(lambda: bool(read_forwarding(game.data, game.data / "log").landed), "the landed position is known", 30)
        until(lambda: bool(small.read({}, FOREVER).gaps), "the spool is trimmed", 30)
