"""From a laptop to a cluster: every event arrives once, wherever the promotion is interrupted."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_spark_lander import PLAN, events, is_json, plain, spark  # noqa: F401
from questlog.cli import cli
from questlog.errors import LanderBusy, QuestlogError
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.source import commit_offsets
from questlog.log.kafka.spool import Spool, read_forwarding
from questlog.log.kafka.topic import create_topic
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.promote import Promotion
from questlog.promote.compare import PLACES
from questlog.record import encode_record
from support.cluster.spark_options import SPARK_LINES, Kept

FIRST = PLAN + 'level = "int"\n'
SECOND = FIRST.replace('guild = "string"', 'clan = { type = "string", aliases = ["guild"] }') + (
    '[events.unheard_of.fields]\nn = "int"\n'
)
THIRD = SECOND.replace('level = "int"', 'level = "long"\nfine = "double"').replace("unheard_of", "never_seen")
"""Columns are added, renamed and widened; an unknown type becomes known, and is removed again."""
pytestmark = pytest.mark.timeout(1800)
RECEIVED_MS = 1_795_000_000_000
_numbers = itertools.count()


class Game:
    """A project on a laptop whose questlog.toml already names the cluster."""

    def __init__(self, folder: Path, servers: dict[str, str], presto: str, session: Any) -> None:
        self.folder, self.servers, self.spark = folder, servers, session
        self.name = f"promote{os.getpid()}_{next(_numbers)}"
        self.kafka = {"bootstrap.servers": servers["kafka"]}
        settings = {
            "topic": self.name, "namespace": self.name, "metastore": servers["metastore"], "topic_partitions": 2,
            "warehouse": servers["warehouse"], "spark_master": "local[2]", "batch_records": 2_000,
        }  # fmt: skip
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
        lines += ["[kafka]", f'bootstrap.servers = "{servers["kafka"]}"', "[presto]", f'url = "{presto}"']
        lines += ["[spark]", f'"spark.jars" = "{servers["spark_jars"]}"', SPARK_LINES]
        (folder / "questlog.toml").write_text("\n".join(lines))
        self.plan(FIRST)
        embedded, cluster = (open_pipeline(folder, profile=profile) for profile in ("embedded", "cluster"))
        assert isinstance(cluster, ClusterPipeline)
        cluster.lander = self.lander  # type: ignore[method-assign]
        self.embedded, self.cluster = embedded, cluster
        self.sent: list[str] = []

    def plan(self, text: str) -> None:
        (self.folder / "plan.toml").write_text(text)

    def lander(self) -> SparkLander:
        """Return a lander on the tests' one session."""
        return SparkLander(
            lambda: Kept(self.spark), lambda: self.cluster.plan, topic=self.name, kafka=self.kafka,
            namespace=self.name, data=self.cluster.project.data,
            publish=lambda position: commit_offsets(self.kafka, self.name, position),
        )  # fmt: skip

    def send(self, *bodies: bytes, chosen: str = "") -> None:
        ids = [chosen or f"e{next(_numbers)}" for _ in bodies]
        self.sent += [each for each in ids if each not in self.sent or not chosen]
        self.embedded.log.append(
            [
                encode_record(
                    body, id=each, received_ms=RECEIVED_MS + next(_numbers), headers={"Host": "a.com"},
                    client_id=bool(chosen), is_json=is_json(body),
                )
                for each, body in zip(ids, bodies, strict=True)
            ]
        )  # fmt: skip

    def land(self) -> None:
        with self.embedded.lander() as lander:
            lander.drain()

    def forward_and_land(self) -> Any:
        """Do what `questlog up` does after the promotion."""
        with Spool(self.cluster.project.data, self.cluster.project.log_folder) as spool:
            self.cluster.forwarder(spool).drain(threading.Event())
        with self.lander() as lander:
            return lander.drain()

    def promote(self) -> list[Any]:
        """Promote to the end, and return the answers."""
        with Promotion(self.embedded, self.cluster) as promotion:
            promotion.land()
            promotion.copy(lambda *_: None)
            caught = promotion.catch_up()
            return list(promotion.compare(caught.through))

    def tables(self) -> list[str]:
        return sorted(r.tableName for r in self.spark.sql(f"show tables in lake.{self.name}").collect())

    def ids(self) -> list[str]:
        """Return the ids of all rows of all tables of the cluster."""
        return sorted(
            row.event_id
            for table in self.tables()
            for row in self.spark.sql(f"select event_id from lake.{self.name}.{table}").collect()
        )

    def check_equal_rows(self) -> None:
        """Compare every column of every row of every table, but for where and when each side landed it."""
        assert self.tables() == [t for t in sorted(self.embedded.engine.tables()) if t != "events"]
        for table in self.tables():
            names = [c for c in self.embedded.sql(f"select * from {table} limit 0").columns if c not in PLACES]
            columns = ", ".join(names)
            theirs = {row[0]: plain(row) for row in self.embedded.sql(f"select {columns} from {table}").rows()}
            rows = self.spark.sql(f"select {columns} from lake.{self.name}.{table}").collect()
            assert {row[0]: plain(tuple(row)) for row in rows} == theirs
            assert len(rows) == len(theirs)


@pytest.fixture
def game(tmp_path: Path, request: pytest.FixtureRequest, servers: dict[str, str], spark: Any) -> Iterator[Game]:  # noqa: F811
    presto = os.environ.get("QUESTLOG_PRESTO_URL") or request.getfixturevalue("stack").addresses.presto
    game = Game(tmp_path, servers, presto, spark)
    yield game
    for pipeline in (game.embedded, game.cluster):
        pipeline.close()
        pipeline.log.close()


GUILD = b'{"event_type": "join_guild", "guild": "wolves", "level": 3}'
LATER = b'{"event_type": "join_guild", "clan": "bears", "level": 5000000000, "fine": 0.1}'


def test_every_event_arrives_once_while_the_game_keeps_running(game: Game) -> None:
    """Three plans, hostile values, unknown types, ids chosen by clients; events arrive throughout."""
    hostile = events(900)
    for plan, bodies in ((FIRST, hostile[:300]), (SECOND, hostile[300:600]), (THIRD, hostile[600:])):
        game.plan(plan)
        game.send(*bodies)
        game.send(GUILD, chosen="mine")
        game.land()
    game.send(LATER, GUILD)
    stop = threading.Event()

    def play() -> None:
        while not stop.wait(0.05):
            game.send(LATER, b"?")

    thread = threading.Thread(target=play)
    thread.start()
    try:
        answers = game.promote()
    finally:
        stop.set()
        thread.join()
    assert [answer.question.name for answer in answers if not answer.equal] == []
    assert "rows of unheard_of" in [answer.question.name for answer in answers]
    game.send(GUILD, chosen="mine")
    game.send(GUILD, LATER)
    landed = game.forward_and_land()
    assert landed.duplicates == 1
    assert game.ids() == sorted(game.sent)
    status = CliRunner().invoke(cli, ["-C", str(game.folder), "status", "--json"], env={"QUESTLOG_PROFILE": "cluster"})
    report = json.loads(status.stdout)
    assert (report["balanced"], report["ledger"]["added"], report["spool"]["waiting"]) == (True, 0, 0)
    (game.embedded.project.data / "forward.db").unlink()  # the forwarder forgets, and sends the whole log again
    assert game.forward_and_land().records == 0
    assert game.ids() == sorted(game.sent)
    game.land()
    game.check_equal_rows()


def test_a_difference_is_shown_and_the_profile_is_not_changed_until_both_sides_are_equal(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClusterPipeline, "lander", lambda _: game.lander())
    (game.folder / "queries").mkdir()
    (game.folder / "queries" / "guilds.sql").write_text("select guild, count(*) as players from join_guild group by 1")
    settings = (game.folder / "questlog.toml").read_text()
    game.send(GUILD, GUILD)
    looked = CliRunner().invoke(cli, ["-C", str(game.folder), "promote", "--check"])
    assert (looked.exit_code, "land 2 records, then copy" in looked.output) == (0, True)
    with Promotion(game.embedded, game.cluster) as promotion:
        promotion.land()
        promotion.copy(lambda *_: None)
    table = f"lake.{game.name}.join_guild"
    game.spark.sql(f"insert into {table} select * from {table} limit 1")
    ran = CliRunner().invoke(cli, ["-C", str(game.folder), "promote", "--write"])
    assert ran.exit_code == 1
    assert "DIFFERENT: guilds" in ran.output
    assert "(1 rows that only this side has, of 1)" in ran.output
    assert (game.folder / "questlog.toml").read_text() == settings
    game.spark.sql(f"call lake.system.rollback_to_snapshot('{game.name}.join_guild', {first_snapshot(game, table)})")
    ran = CliRunner().invoke(cli, ["-C", str(game.folder), "promote", "--write", "--json"])
    report = json.loads(ran.stdout)
    assert (ran.exit_code, report["verdict"], report["written"]) == (0, "equal", True)
    assert [q["question"] for q in report["questions"]][-1] == "guilds"
    assert (game.folder / "questlog.toml").read_text() == f'profile = "cluster"\n{settings}\n'


def first_snapshot(game: Game, table: str) -> int:
    rows = game.spark.sql(f"select snapshot_id from {table}.snapshots order by committed_at").collect()
    return int(rows[0].snapshot_id)


def test_a_used_target_and_a_running_lander_are_refused(game: Game) -> None:
    game.send(GUILD)
    with game.embedded.lander(), pytest.raises(LanderBusy) as busy:
        Promotion(game.embedded, game.cluster).__enter__()
    assert "stop questlog up" in busy.value.hint
    create_topic(game.kafka, game.name, partitions=1, replication=1, retention_hours=1)
    game.forward_and_land()
    with pytest.raises(QuestlogError, match="already holds events that came through a topic"):
        game.promote()
    assert len(game.ids()) == 1


def test_a_topic_that_holds_records_is_refused_before_anything_is_copied(game: Game) -> None:
    game.send(GUILD)
    create_topic(game.kafka, game.name, partitions=2, replication=1, retention_hours=1)
    producer = Producer(game.kafka)
    producer.produce(game.name, b'{"event_type": "join_guild"}')
    assert producer.flush(30) == 0
    with pytest.raises(QuestlogError, match="already holds 1 records"):
        game.promote()
    assert game.ids() == []


def test_a_table_with_foreign_rows_is_refused_and_left_unchanged(game: Game) -> None:
    game.send(GUILD)
    game.spark.sql(f"create namespace lake.{game.name}")
    game.spark.sql(f"create table lake.{game.name}.join_guild using iceberg as select 'theirs' as event_id")
    with pytest.raises(QuestlogError, match="holds 1 rows that were not copied from this project"):
        game.promote()
    assert game.ids() == ["theirs"]


PROGRAM = """
import os, signal, sys
from questlog.cli import cli
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.state import LanderState
from questlog.land.spark.tables import SparkTables
from questlog.log.kafka.forward import Forwarder
from questlog.log.kafka.spool import Spool
from questlog.promote import Promotion, copy
copy.PIECE_ROWS = copy._BATCH_ROWS = 100
folder, moment, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"copy": SparkTables, "add_ids": LanderState, "save": LanderState, "step": Forwarder,
         "drain": SparkLander, "compare": Promotion}[moment.split()[-1]]
name, before = moment.split()[-1], moment.startswith("before")
real, calls = getattr(owner, name), iter(range(1, number))

def dying(*arguments, **named):
    last = next(calls, None) is None
    if last and before:
        os.kill(os.getpid(), signal.SIGKILL)
    result = real(*arguments, **named)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, dying)
cli(["-C", folder, "promote"])
"""
COPYING = [("after copy", 2), ("after add_ids", 1), ("before save", 2)]
HANDED_OVER = [("after save", 2), ("before drain", 1), ("before compare", 1)]
"""One piece is copied, the next is not; the ids are copied, the checkpoint is not; just before and just after the
checkpoint, which is the first `save` after that of the take-over; forwarded, not landed; landed, not compared."""


@pytest.mark.parametrize("moments", [COPYING, HANDED_OVER], ids=["copying", "handed over"])
def test_a_promotion_killed_at_any_step_resumes_and_every_event_arrives_once(game: Game, moments: list[Any]) -> None:
    """Between the kills the game and the laptop's lander go on; the plan changes until the copy is complete."""
    game.send(*events(600))
    game.send(GUILD, chosen="mine")
    for number, (moment, count) in enumerate(moments):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(game.folder), moment, str(count)], capture_output=True, text=True,
            timeout=900,
        )  # fmt: skip
        assert ended.returncode == -9, f"{moment}: {ended.stdout}{ended.stderr}"
        if number % 2:
            game.plan(SECOND if moments is COPYING else FIRST)
            game.land()
        game.send(GUILD, LATER, b"nothing")
    assert [answer.question.name for answer in game.promote() if not answer.equal] == []
    game.send(GUILD, chosen="mine")
    game.send(LATER)
    assert game.forward_and_land().duplicates == 1
    assert game.ids() == sorted(game.sent)
    game.land()
    game.check_equal_rows()
    forwarding = read_forwarding(game.embedded.project.data, game.embedded.project.log_folder)
    assert forwarding.sent == game.embedded.log.end()
