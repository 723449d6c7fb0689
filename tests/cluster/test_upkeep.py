"""Upkeep beside the stream: files become few, what is old goes, no position with it, whoever is frozen meanwhile."""

# ruff: noqa: F401, F811 -- fixtures of the other module
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from pyspark.errors import IllegalArgumentException

from cluster.test_fence import apart
from cluster.test_spark_lander import GUILD, PLAN, RECEIVED_MS, Game, game, spark, wait_until
from questlog.errors import LanderReplaced
from questlog.land.spark import SparkLander
from questlog.land.spark.ids import DAY_MS
from questlog.land.spark.states import KEPT, STATE, last, states
from questlog.land.spark.tables import SparkTables
from questlog.land.spark.upkeep import ORPHAN_SECONDS, SWEEP_SECONDS, SparkUpkeep

pytestmark = pytest.mark.timeout(900)


@contextmanager
def running(lander: SparkLander) -> Iterator[Callable[[], float]]:
    """Let the lander run beside; gives what stops it and returns how long that took."""
    stop = threading.Event()
    thread = threading.Thread(target=lander.run, args=(stop,))

    def end() -> float:
        begun = time.monotonic()
        stop.set()
        thread.join(120)
        assert not thread.is_alive()
        return time.monotonic() - begun

    thread.start()
    try:
        yield end
    finally:
        end()


def hurry(upkeep: SparkUpkeep) -> None:
    """Let it keep the tables now and always, and forget every snapshot that may go."""
    upkeep._every = upkeep._keep = upkeep._due = 0.0


def upkeep_of(lander: SparkLander, hours: float = 24.0) -> SparkUpkeep:
    return SparkUpkeep(lander._tables.twin(), lambda: hours, every=0.0, keep=0.0)


def metadata(game: Game, name: str, namespace: str = "") -> Any:
    return SparkTables(game.spark, game.name).metadata(namespace or game.name, name)


def files(game: Game, table: str) -> int:
    """Return how many data files the table has now."""
    return int(metadata(game, table)["snapshots"][-1]["summary"]["total-data-files"])


def land(game: Game, lander: SparkLander, *bodies: bytes, **how: Any) -> None:
    game.send(*bodies, **how)
    game.forward()
    lander.drain()


def test_many_files_become_few_while_events_arrive_and_the_ledger_balances(game: Game) -> None:
    landed = 0
    with game.lander() as lander:
        for _ in range(6):
            land(game, lander, GUILD, b"?", chosen=f"mine {landed}")
            landed += 2
        assert files(game, "join_guild") == 6
        sent = 0
        with running(lander):
            wait_until(lambda: hasattr(lander, "_targets"), 120)
            hurry(lander._chores._upkeep)
            while files(game, "join_guild") >= 5:
                game.send(GUILD, chosen=f"more {sent}")
                game.forward()
                sent += 1
                arrived(lander, landed + sent)
            wait_until(lambda: len(metadata(game, "join_guild")["snapshots"]) < 6, 120)
    floor = SparkTables(game.spark, game.name).floor()
    assert floor.counts["records"] == landed + sent
    assert len(game.ids()) + floor.counts["duplicate"] == landed + sent
    assert len(set(game.rows("join_guild", "event_id"))) == len(game.rows("join_guild")) == 6 + sent
    assert game.land().records == 0


def arrived(lander: SparkLander, records: int) -> None:
    wait_until(lambda: SparkTables(lander._spark, lander._namespace).floor().counts.get("records") == records, 300)


def test_upkeep_keeps_its_times_while_nothing_comes_and_stops_with_the_lander(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a table in which nothing happens is left alone."""
    with game.lander() as lander:
        for _ in range(3):
            land(game, lander, GUILD)
        before = lander._tables.positions(), lander._tables.floor()
    assert len(metadata(game, "join_guild")["snapshots"]) >= 4
    with game.lander("other") as lander, running(lander) as end:
        wait_until(lambda: hasattr(lander, "_targets"), 120)
        hurry(lander._chores._upkeep)
        monkeypatch.setattr("questlog.land.spark.chores.LOOK_SECONDS", 0.1)
        wait_until(lambda: [KEPT in s for s in states(metadata(game, "join_guild"))] == [True], 300)
        kept = metadata(game, "join_guild")
        progress = last(metadata(game, "progress", lander._tables.own), KEPT)
        wait_until(lambda: lander._chores._upkeep._next == [], 120)
        wait_until(lambda: lander._chores._upkeep._next != [], 120)
        assert metadata(game, "join_guild") == kept
        assert end() < 30
        assert progress > 0
        assert [t for t in threading.enumerate() if t.name == "chores"] == []
        assert lander._tables.positions() == before[0]
        floor = lander._tables.floor()
        assert (floor.position, floor.counts) == (before[1].position, before[1].counts)
    assert game.land().records == 0
    assert len(game.ids()) == 3


def test_ids_whose_window_is_over_go_and_a_repeat_within_it_is_still_known(game: Game) -> None:
    with game.lander() as lander:
        for hours in (0, 48, 120):
            land(game, lander, GUILD, chosen=f"at hour {hours}", hours=hours)
        upkeep_of(lander).keep(lander._tables.own, "progress")
        before = lander._tables.floor()
    rows = game.spark.table(f"lake.{game.name}_state.checkpoint").collect()
    day = (RECEIVED_MS + 72 * 3_600_000) // DAY_MS * DAY_MS
    assert {r.event_id for r in rows} == {"at hour 120"}
    assert min(r.received_ms for r in rows) >= day
    with game.lander() as lander:
        assert lander.drain().records == 0
        floor = lander._tables.floor()
        assert (floor.position, floor.spools, floor.counts) == (before.position, before.spools, before.counts)
        game.send(GUILD, chosen="at hour 120", hours=121)
        game.forward()
        assert lander.drain().duplicates == 1


def test_a_server_whose_clock_is_ahead_does_not_make_the_ids_of_others_old(game: Game) -> None:
    now = int(time.time() * 1000 - RECEIVED_MS) // 3_600_000
    with game.lander() as lander:
        land(game, lander, GUILD, chosen="mine", hours=now)
        land(game, lander, GUILD, chosen="from tomorrow", hours=now + 24 * 365)
        upkeep_of(lander).keep(lander._tables.own, "progress")
    with game.lander() as lander:
        game.send(GUILD, chosen="mine", hours=now)
        game.forward()
        assert lander.drain().duplicates == 1


@pytest.mark.parametrize("moment", ["oldest_id", "rewrite_data_files", "carry", "expire_snapshots"])
def test_a_driver_frozen_in_its_upkeep_changes_nothing_when_it_wakes_and_another_has_taken_over(
    game: Game, moment: str
) -> None:
    """Frozen just before it forgets ids, merges files, says a state again, or forgets snapshots."""
    with game.lander("one") as old:
        for hours in (0, 120):
            land(game, old, GUILD, chosen=f"at hour {hours}", hours=hours)
        upkeep = upkeep_of(old)
        with game.lander("two") as new:

            def meanwhile() -> None:
                new.drain()
                others = upkeep_of(new, hours=500)
                land(game, new, GUILD, b"?", b'{"event_type": "purchase_sword"}')
                for name in ("join_guild", "quarantine"):
                    others.keep(game.name, name)
                others.keep(f"{game.name}_state", "progress")
                land(game, new, GUILD)

            frozen_before(upkeep, moment, meanwhile)
            own = old._tables.own
            order = [(own, "progress")] if moment == "oldest_id" else [(game.name, "join_guild"), (own, "progress")]
            for namespace, name in order:
                try:
                    upkeep.keep(namespace, name)
                except IllegalArgumentException:  # more snapshots to forget than are left: Iceberg refuses
                    assert moment == "expire_snapshots"
                except LanderReplaced:
                    assert moment != "expire_snapshots" or name == "progress"
            if moment in ("oldest_id", "carry"):
                with pytest.raises(LanderReplaced):
                    upkeep.keep(own, "progress")
            known = {r.event_id for r in game.spark.table(f"lake.{own}.progress").collect()}
            assert known == {"at hour 0", "at hour 120"}
            assert new._tables.floor().epoch == new._tables.epoch
            land(game, new, GUILD)
    assert game.land().records == 0
    assert len(game.ids()) == len(set(game.ids())) == 7


def frozen_before(upkeep: SparkUpkeep, moment: str, meanwhile: Callable[[], None]) -> None:
    """Let *meanwhile* happen once, just before the upkeep does that."""
    done = list[bool]()

    def once() -> None:
        if not done:
            done.append(True)
            apart(meanwhile)

    tables: Any = upkeep._tables
    if moment in ("oldest_id", "carry"):
        owner, name = (tables, "carry") if moment == "carry" else (tables._commits, "delete")
        real = getattr(owner, name)
        setattr(owner, name, lambda *given: (once(), real(*given))[1])
        return
    call = upkeep._call

    def frozen(stop: Any, procedure: str) -> None:
        if procedure.startswith(moment):
            once()
        call(stop, procedure)

    upkeep._call = frozen  # type: ignore[method-assign]


def test_no_older_state_is_said_again_on_top_of_a_newer_one(game: Game) -> None:
    """The stream commits between upkeep's look and its word."""
    with game.lander() as lander:
        land(game, lander, GUILD)
        twin: Any = lander._tables.twin()
        append, done = twin._commits.append, list[bool]()

        def late(*given: Any) -> None:
            if not done:
                done.append(True)
                apart(lambda: land(game, lander, GUILD))
            append(*given)

        twin._commits.append = late
        twin.carry(lander._tables.own, "progress", {KEPT: 1})
        found = states(metadata(game, "progress", lander._tables.own))
        assert (found[-1][KEPT], found[-1]["counts"]["records"]) == (1, 2)
        assert found[-1]["position"] == found[-2]["position"]


def put(game: Game, table: str, name: str, age_seconds: float) -> Any:
    """Put a file that no snapshot knows into the table's folder on HDFS, dated back; return its path."""
    jvm: Any = game.spark._jvm
    location = metadata(game, table)["location"]
    path = jvm.org.apache.hadoop.fs.Path(f"{location}/data/{name}")
    found = hdfs(game, path)
    found.create(path).close()
    ms = found.getFileStatus(path).getModificationTime() - int(age_seconds * 1000)
    found.setTimes(path, ms, ms)
    return path


def hdfs(game: Game, path: Any) -> Any:
    return path.getFileSystem(game.spark._jsc.hadoopConfiguration())


def test_what_no_snapshot_knows_goes_from_hdfs_after_its_age_and_manifests_are_merged(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By HDFS's clock: a driver whose own is ten days ahead takes no file of a commit under way."""
    with game.lander() as lander:
        for _ in range(3):
            land(game, lander, GUILD)
        old = put(game, "join_guild", "old.parquet", ORPHAN_SECONDS + 60)
        new = put(game, "join_guild", "new.parquet", ORPHAN_SECONDS - 3600)
        upkeep = upkeep_of(lander)
        upkeep.keep(game.name, "join_guild")
        assert hdfs(game, old).exists(old)  # it is not a day yet since the table was made
        assert manifests(game) == 1
        land(game, lander, GUILD)
        now = time.time_ns
        monkeypatch.setattr("questlog.land.spark.upkeep.time.time_ns", lambda: now() + int(10 * SWEEP_SECONDS * 1e9))
        assert upkeep._is_due(game.name, "join_guild")
        upkeep.keep(game.name, "join_guild")
        monkeypatch.undo()
        assert (hdfs(game, old).exists(old), hdfs(game, new).exists(new)) == (False, True)
        assert manifests(game) == 1
    assert len(game.ids()) == 4


def manifests(game: Game) -> int:
    return game.spark.table(f"lake.{game.name}.join_guild.manifests").count()  # type: ignore[no-any-return]


def test_the_plan_is_followed_while_nothing_comes_and_its_words_arrive_in_the_tables(game: Game) -> None:
    with game.lander() as lander, running(lander):
        wait_until(lambda: comments(game) == ("A player joined.", None), 120)
        said = PLAN.replace("A player joined.", "Somebody joined.")
        said = said.replace('guild = "string"', 'guild = { type = "string", description = "Which guild." }')
        (game.folder / "plan.toml").write_text(said + '[events.late.fields]\nn = "int"\n')
        wait_until(lambda: comments(game) == ("Somebody joined.", "Which guild."), 120)
        wait_until(lambda: "late" in lander._tables.twin().names(), 120)
        (game.folder / "plan.toml").write_text(said.replace("Which guild.", "Its guild.") + "[events.late]\n")
        game.send(GUILD)
        game.forward()
        wait_until(lambda: lander._total.records == 1, 120)
        wait_until(lambda: comments(game) == ("Somebody joined.", "Its guild."), 120)


def comments(game: Game) -> tuple[str | None, str | None]:
    """Return what is said of the table, and of its field `guild`."""
    if "join_guild" not in SparkTables(game.spark, game.name).names():
        return None, None
    found = metadata(game, "join_guild")
    schema = next(s for s in found["schemas"] if s["schema-id"] == found["current-schema-id"])
    guild = next(field for field in schema["fields"] if field["name"] == "guild")
    return found["properties"].get("comment"), guild.get("doc")


def test_a_table_that_a_backfill_makes_in_the_same_moment_is_taken_as_it_is(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    with game.lander() as lander:
        land(game, lander, GUILD)
        monkeypatch.setattr(SparkTables, "names", lambda self: [])
        land(game, lander, GUILD)
        monkeypatch.undo()
    with game.lander() as lander:
        monkeypatch.setattr(SparkTables, "names", lambda self: [])
        land(game, lander, GUILD)
    assert len(game.ids()) == 3


def test_a_plan_is_followed_though_upkeep_commits_in_the_same_moment(game: Game) -> None:
    with game.lander() as lander:
        land(game, lander, GUILD)
        twin, done = lander._tables.twin(), list[bool]()
        found = lander._tables.metadata

        def late(namespace: str, name: str) -> Any:
            answer = found(namespace, name)
            if name == "join_guild" and len(done) < 2:  # also between the look and the swap
                done.append(True)
                apart(lambda: twin.carry(namespace, name, {KEPT: 1}))
            return answer

        lander._tables.metadata = late  # type: ignore[method-assign]
        (game.folder / "plan.toml").write_text(PLAN.replace("A player joined.", "Somebody joined."))
        land(game, lander, GUILD)
        assert len(done) == 2
    assert comments(game)[0] == "Somebody joined."
    assert len(game.ids()) == 2
