"""The cluster's lander: the same rows as the embedded one, each event once, wherever it is interrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from support.cluster.spark_options import SPARK, SPARK_LINES, Kept
from support.waiting import until

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from questlog.errors import LanderFenced
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.session import catalog_options
from questlog.land.spark.source import commit_offsets
from questlog.log.kafka.spool import Spool
from questlog.log.kafka.topic import create_topic
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.record import encode_record

PLAN = """
[game]
name = "swords"
[events.purchase_sword]
table = "sword_purchases"
[events.purchase_sword.fields]
sword = "string"
price = "decimal(12,2)"
tags = "list<string>"
extra = "map<string,double>"
place = "struct<x:int,seen:timestamp>"
[events.join_guild]
description = "A player joined."
[events.join_guild.fields]
guild = "string"
"""
GUILD = b'{"event_type": "join_guild", "guild": "wolves"}'
RECEIVED_MS = 1_790_000_000_000
_numbers = iter(range(10**6))


@pytest.fixture(scope="session")
def spark(servers: dict[str, str]) -> Iterator[Any]:
    """One Spark session for all tests; a lander that ends leaves it running."""
    from questlog.land.spark.session import open_session

    session = open_session(
        master="local[2]", metastore=servers["metastore"], warehouse=servers["warehouse"],
        jars=servers["spark_jars"].split(","), options=SPARK,
    )  # fmt: skip
    yield session
    session.stop()


def other_catalog(spark: Any, metastore: str, warehouse: str) -> Any:
    """Return another session in the JVM of *spark*, with another catalog."""
    session = spark.newSession()
    for key, value in catalog_options(metastore, warehouse).items():
        if not key.startswith("spark.hadoop."):
            session.conf.set(key, value)
    return session


class Game:
    """A project on the cluster profile, with its own topic and namespace."""

    def __init__(self, folder: Path, servers: dict[str, str], spark: Any) -> None:
        self.folder, self.spark = folder, spark
        name = f"t{os.getpid()}_{next(_numbers)}"
        (folder / "plan.toml").write_text(PLAN)
        self.settings = {
            "profile": "cluster", "topic": name, "namespace": name, "metastore": servers["metastore"],
            "warehouse": servers["warehouse"], "spark_master": "local[2]", "land_seconds": 0.5,
        }  # fmt: skip
        self.kafka = {"bootstrap.servers": servers["kafka"]}
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.settings.items()]
        lines += ["[kafka]", f'bootstrap.servers = "{servers["kafka"]}"']
        lines += ["[spark]", f'"spark.jars" = "{servers["spark_jars"]}"', SPARK_LINES]
        (folder / "questlog.toml").write_text("\n".join(lines))
        create_topic(self.kafka, name, partitions=2, replication=1, retention_hours=1)
        pipeline = open_pipeline(folder)
        assert isinstance(pipeline, ClusterPipeline)
        self.pipeline, self.name = pipeline, name

    def send(self, *bodies: bytes, chosen: str = "", hours: int = 0) -> None:
        received_ms = RECEIVED_MS + hours * 3_600_000
        records = [
            encode_record(body, id=chosen or f"e{next(_numbers)}", received_ms=received_ms, client_id=bool(chosen))
            for body in bodies
        ]
        self.pipeline.log.append(records)

    def forward(self) -> None:
        with Spool(self.pipeline.project.data, self.pipeline.project.log_folder) as spool:
            self.pipeline.forwarder(spool).drain(threading.Event())

    def lander(self, data: str = "", announce: Callable[[], None] = lambda: None) -> SparkLander:
        return SparkLander(
            lambda: Kept(self.spark), lambda: self.pipeline.plan, topic=self.name, kafka=self.kafka,
            namespace=self.name, data=self.pipeline.project.data / data, batch_records=500,
            publish=lambda position: commit_offsets(self.kafka, self.name, position), announce=announce,
        )  # fmt: skip

    def land(self) -> Any:
        with self.lander() as lander:
            return lander.drain()

    def rows(self, table: str, columns: str = "*") -> list[Any]:
        return [tuple(row) for row in self.spark.sql(f"select {columns} from lake.{self.name}.{table}").collect()]

    def ids(self) -> list[str]:
        """Return the ids of all rows of all tables."""
        tables = [r.tableName for r in self.spark.sql(f"show tables in lake.{self.name}").collect()]
        return sorted(row[0] for table in tables for row in self.rows(table, "event_id"))


@pytest.fixture
def game(tmp_path: Path, servers: dict[str, str], spark: Any) -> Iterator[Game]:
    game = Game(tmp_path, servers, spark)
    yield game
    game.pipeline.log.close()  # type: ignore[attr-defined]


def test_events_land_with_headers_and_comments_and_bad_ones_in_quarantine(game: Game) -> None:
    game.send(GUILD, b'{"event_type": "purchase_sword", "price": "1.50"}', b"not json", b'{"event_type": "?"}')
    game.forward()
    assert game.land().rows == {"join_guild": 1, "sword_purchases": 1, "quarantine": 2}
    assert game.land().records == 0
    assert game.rows("join_guild", "event_type, guild") == [("join_guild", "wolves")]
    assert sorted(game.rows("quarantine", "reason")) == [("not_json",), ("unknown_event_type",)]
    types = {f.name: f.dataType.simpleString() for f in game.spark.table(f"lake.{game.name}.sword_purchases").schema}
    assert (types["received_time"], types["price"]) == ("timestamp_ntz", "decimal(12,2)")


def test_an_old_producers_flat_json_lands_in_the_same_tables(game: Game) -> None:
    """From a plain Flask app and a plain producer, without questlog; also unreadable bytes and a tombstone."""
    flat = {"Host": "user1.comcast.com", "event_type": "purchase_sword", "Accept": "*/*", "User-Agent": "ab"}
    producer = Producer(game.kafka)
    for value in (json.dumps(flat).encode(), b"\xff\xfe", None):
        producer.produce(game.name, value, partition=0)
    producer.flush()
    assert game.land().rows == {"sword_purchases": 1, "quarantine": 2}
    assert game.rows("sword_purchases", "host, accept, user_agent") == [("user1.comcast.com", "*/*", "ab")]


def test_resent_records_and_repeated_client_ids_are_dropped(game: Game) -> None:
    game.send(GUILD, GUILD)
    game.send(GUILD, chosen="mine")
    game.forward()
    assert game.land().records == 3
    (game.pipeline.project.data / "forward.db").unlink()  # the forwarder forgets: it sends everything again
    game.send(GUILD, chosen="mine")
    game.forward()
    landed = game.land()
    assert (landed.records, landed.duplicates) == (1, 1)
    assert len(game.ids()) == 3


@pytest.mark.parametrize("commits", [0, 1, 2])
def test_a_batch_interrupted_after_any_commit_is_finished_without_duplicates(game: Game, commits: int) -> None:
    """The next lander finishes exactly that batch, although more events have arrived and the plan has changed."""
    game.send(GUILD, b'{"event_type": "purchase_sword"}', b"?", b'{"event_type": "late", "n": 1}')
    game.forward()

    class Died(Exception):
        pass

    with game.lander() as lander:
        commit, done = lander.tables.commit, iter(range(commits))

        def dying(*arguments: Any) -> None:
            if next(done, None) is None:
                raise Died
            commit(*arguments)

        lander.tables.commit = dying  # type: ignore[method-assign]
        with pytest.raises(Died):
            lander.drain()
    (game.folder / "plan.toml").write_text(PLAN + '[events.late.fields]\nn = "int"\n')
    game.send(GUILD, b'{"event_type": "late", "n": 2}')
    game.forward()
    game.land()
    assert len(game.ids()) == len(set(game.ids())) == 6
    late = game.rows("late", "n")
    assert late == ([(1,), (2,)] if commits == 0 else [(2,)])


def test_the_older_of_two_landers_fails_its_commit(game: Game) -> None:
    game.send(GUILD)
    game.forward()
    with game.lander("one") as old:
        old.drain()
        with game.lander("two") as new:
            new.drain()
            game.send(GUILD)
            game.forward()
            with pytest.raises(LanderFenced, match="another lander took over"):
                old.drain()
            new.drain()
    assert len(game.ids()) == len(set(game.ids())) == 2


def test_members_and_descriptions_follow_the_plan(game: Game) -> None:
    """Members of structs, also of structs in lists; existing rows keep their values."""
    place = "struct<x:int,seen:timestamp>"
    body = {"event_type": "purchase_sword", "place": {"x": 1}}
    game.send(json.dumps(body).encode())
    game.forward()
    game.land()
    grown = (
        PLAN.replace("A player joined.", "Somebody joined.")
        .replace(place, "struct<x:long,seen:timestamp,deep:list<struct<a:int>>>")
        .replace('"string"\nprice', '{ type = "string", description = "Which sword." }\nprice')
    )
    (game.folder / "plan.toml").write_text(grown)
    body["place"] = {"x": 2, "deep": [{"a": 5}]}
    game.send(json.dumps(body).encode())
    game.forward()
    game.land()
    (game.folder / "plan.toml").write_text(grown.replace("<a:int>", "<a:int,b:string>"))
    body["place"] = {"x": 3, "deep": [{"a": 6, "b": "c"}]}
    game.send(json.dumps(body).encode())
    game.forward()
    game.land()
    schema = {field.name: field for field in game.spark.table(f"lake.{game.name}.sword_purchases").schema}
    members = "struct<x:bigint,seen:timestamp_ntz,deep:array<struct<a:int,b:string>>>"
    assert members == schema["place"].dataType.simpleString()
    assert schema["sword"].metadata["comment"] == "Which sword."
    stored = game.rows("sword_purchases", "place.x, place.deep[0].a, place.deep[0].b")
    assert sorted(stored) == [(1, None, None), (2, 5, None), (3, 6, "c")]


def test_the_tables_are_announced_until_the_query_engine_answers(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first event: the plan's tables exist already."""
    monkeypatch.setattr("questlog.land.spark.maintenance.RETRY_SECONDS", 0.1)
    calls, stop = list[int](), threading.Event()

    def announce() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            raise OSError("nobody listens")

    with game.lander(announce=announce) as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            until(lambda: len(calls) == 3, seconds=120)
        finally:
            stop.set()
            thread.join(90)
    assert game.ids() == []


def events(count: int) -> list[bytes]:
    """Return events with every kind of value that has ever caused a bug."""
    seed = 20261124
    print(f"seed {seed}")
    chance = random.Random(seed)
    bodies = []
    for number in range(count):
        body: dict[str, Any] = {
            "event_type": chance.choice(["join_guild", "purchase_sword"]),
            "player_id": f"p{number % 97}",
        }
        kind = chance.randrange(100)
        if body["event_type"] == "purchase_sword":
            body |= {
                "price": chance.choice(["1.50", 2, 1e9, -0.01]),
                "tags": chance.choice([[], ["a", None], ["\U0001f5e1"]]),
                "extra": {"k": chance.random()}, "place": {"x": number, "seen": "2026-11-24T10:00:00.123Z"},
            }  # fmt: skip
        else:
            body["guild"] = chance.choice(["wolves", "", "naïve\u2028", "x" * 200, None])
        if kind == 0:
            bodies.append(json.dumps(body).encode()[:-3])
        elif kind == 1:
            bodies.append(b'{"event_type": "unheard_of"}')
        elif kind == 2:
            bodies.append(json.dumps(body | {"price": "a lot", "new_field": {"deep": [1]}}).encode())
        else:
            bodies.append(json.dumps(body).encode())
    return bodies


def is_json(body: bytes) -> bool:
    """Return what a collector determines before it writes a record."""
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def plain(value: Any) -> Any:
    """Return a value of either engine in a common form."""
    if hasattr(value, "asDict"):
        return plain(value.asDict())
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return bytes(value) if isinstance(value, bytearray) else value


def test_a_driver_killed_at_random_moments_loses_and_duplicates_nothing(game: Game) -> None:
    """`questlog up` and everything it started are killed again and again while events arrive."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    sent = 0
    for _ in range(int(os.environ.get("QUESTLOG_KILLS", "2"))):
        child = subprocess.Popen(
            [sys.executable, "-m", "questlog", "-C", str(game.folder), "up"],
            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + chance.uniform(12, 40)
        while time.monotonic() < deadline:
            game.send(GUILD, b'{"event_type": "purchase_sword"}', b"?")
            sent += 3
            time.sleep(0.1)  # a steady stream of events
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    game.forward()
    game.land()
    assert len(game.ids()) == len(set(game.ids())) == sent


def test_the_stream_follows_the_plan_and_stops_on_request(game: Game) -> None:
    stop = threading.Event()
    with game.lander() as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            game.send(GUILD)
            game.forward()
            until(lambda: lander._total.records == 1)
            (game.folder / "plan.toml").write_text(
                PLAN.replace('guild = "string"', 'guild = "string"\nlevel = "int"')
                + '[events.late.fields]\nn = "int"\n'
            )
            game.send(b'{"event_type": "join_guild", "level": 7}', b'{"event_type": "late", "n": 2}')
            game.forward()
            until(lambda: lander._total.records == 3)
        finally:
            stop.set()
            thread.join(90)
    assert sorted(game.rows("join_guild", "level"), key=str) == [(7,), (None,)]
    assert game.rows("late", "n") == [(2,)]
