"""Table maintenance alongside the stream: it merges and expires, and loses no position, even in a frozen driver."""

# ruff: noqa: F401, F811 -- fixtures of the other module
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.waiting import until

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from pyspark.errors import IllegalArgumentException

from cluster.test_fence import apart
from cluster.test_spark_lander import GUILD, PLAN, RECEIVED_MS, Game, game, spark
from questlog.errors import LanderReplaced
from questlog.lake.checkpoint import Checkpoint, read_snapshots, table_checkpoint
from questlog.land.spark.commits import DAY_MS, IcebergCatalog
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.maintenance import ORPHAN_SECONDS, SWEEP_SECONDS, SparkMaintenance
from questlog.land.spark.state import LanderState
from questlog.land.spark.tables import SparkTables

pytestmark = pytest.mark.timeout(900)


@contextmanager
def running(lander: SparkLander) -> Iterator[Callable[[], float]]:
    """Run the lander in a thread; yield a function that stops it and returns how long that took."""
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


def hurry(maintenance: SparkMaintenance) -> None:
    """Make every table due now and from now on, and every snapshot that may expire too."""
    maintenance._every = maintenance._keep = maintenance._due = 0.0


def maintenance_of(lander: SparkLander, hours: float = 24.0) -> SparkMaintenance:
    return SparkMaintenance(lander.catalog.twin(), lander.tables.namespace, lambda: hours, every=0.0, keep=0.0)


def metadata(game: Game, name: str, namespace: str = "") -> Any:
    return IcebergCatalog(game.spark).metadata(namespace or game.name, name)


def checkpoint_of(game: Game) -> Checkpoint:
    return LanderState(IcebergCatalog(game.spark), game.name).checkpoint()


def files(game: Game, table: str) -> int:
    """Return how many data files the table has."""
    return int(metadata(game, table)["snapshots"][-1]["summary"]["total-data-files"])


def land(game: Game, lander: SparkLander, *bodies: bytes, **how: Any) -> None:
    game.send(*bodies, **how)
    game.forward()
    lander.drain()


def test_files_are_merged_while_events_arrive_and_the_ledger_balances(game: Game) -> None:
    landed = 0
    with game.lander() as lander:
        for _ in range(6):
            land(game, lander, GUILD, b"?", chosen=f"mine {landed}")
            landed += 2
        assert files(game, "join_guild") == 6
        sent = 0
        with running(lander):
            until(lambda: hasattr(lander, "_targets"), seconds=120)
            hurry(lander._background._maintenance)
            while files(game, "join_guild") >= 5:
                game.send(GUILD, chosen=f"more {sent}")
                game.forward()
                sent += 1
                arrived(game, landed + sent)
            until(lambda: len(metadata(game, "join_guild")["snapshots"]) < 6, seconds=120)
    counts = checkpoint_of(game).counts
    assert counts["records"] == landed + sent
    assert len(game.ids()) + counts["duplicate"] == landed + sent
    assert len(set(game.rows("join_guild", "event_id"))) == len(game.rows("join_guild")) == 6 + sent
    assert game.land().records == 0


def arrived(game: Game, records: int) -> None:
    until(lambda: checkpoint_of(game).counts.get("records") == records, seconds=300)


def test_maintenance_runs_while_no_events_arrive_and_stops_with_the_lander(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table without changes is left alone."""
    with game.lander() as lander:
        for _ in range(3):
            land(game, lander, GUILD)
        before = positions(lander), lander.state.checkpoint()
    assert len(metadata(game, "join_guild")["snapshots"]) >= 4
    with game.lander("other") as lander, running(lander) as end:
        until(lambda: hasattr(lander, "_targets"), seconds=120)
        hurry(lander._background._maintenance)
        monkeypatch.setattr("questlog.land.spark.maintenance.POLL_SECONDS", 0.1)
        until(lambda: [c.kept > 0 for c in checkpoints(metadata(game, "join_guild"))] == [True], seconds=300)
        kept = metadata(game, "join_guild")
        progress = table_checkpoint(metadata(game, "progress", lander.state.namespace)).kept
        until(lambda: lander._background._maintenance._next == [], seconds=120)
        until(lambda: lander._background._maintenance._next != [], seconds=120)
        assert metadata(game, "join_guild") == kept
        assert end() < 30
        assert progress > 0
        assert [t for t in threading.enumerate() if t.name == "questlog-maintenance"] == []
        assert positions(lander) == before[0]
        after = lander.state.checkpoint()
        assert (after.position, after.counts) == (before[1].position, before[1].counts)
    assert game.land().records == 0
    assert len(game.ids()) == 3


def test_ids_outside_the_window_expire_and_a_repeat_within_it_is_still_a_duplicate(game: Game) -> None:
    with game.lander() as lander:
        for hours in (0, 48, 120):
            land(game, lander, GUILD, chosen=f"at hour {hours}", hours=hours)
        maintenance_of(lander).maintain(lander.state.namespace, "progress")
        before = lander.state.checkpoint()
    rows = game.spark.table(f"lake.{game.name}_state.progress").collect()
    day = (RECEIVED_MS + 72 * 3_600_000) // DAY_MS * DAY_MS
    assert {r.event_id for r in rows} == {"at hour 120"}
    assert min(r.received_ms for r in rows) >= day
    with game.lander() as lander:
        assert lander.drain().records == 0
        after = lander.state.checkpoint()
        assert (after.position, after.spools, after.counts) == (before.position, before.spools, before.counts)
        game.send(GUILD, chosen="at hour 120", hours=121)
        game.forward()
        assert lander.drain().duplicates == 1


def test_a_server_whose_clock_is_ahead_does_not_expire_the_ids_of_others(game: Game) -> None:
    now = int(time.time() * 1000 - RECEIVED_MS) // 3_600_000
    with game.lander() as lander:
        land(game, lander, GUILD, chosen="mine", hours=now)
        land(game, lander, GUILD, chosen="from tomorrow", hours=now + 24 * 365)
        maintenance_of(lander).maintain(lander.state.namespace, "progress")
    with game.lander() as lander:
        game.send(GUILD, chosen="mine", hours=now)
        game.forward()
        assert lander.drain().duplicates == 1


@pytest.mark.parametrize("moment", ["expire_ids", "rewrite_data_files", "repeat_checkpoint", "expire_snapshots"])
def test_a_driver_frozen_during_maintenance_does_no_harm_when_it_wakes_after_a_take_over(
    game: Game, moment: str
) -> None:
    """Frozen just before it expires ids, merges files, repeats a checkpoint, or expires snapshots."""
    with game.lander("one") as old:
        for hours in (0, 120):
            land(game, old, GUILD, chosen=f"at hour {hours}", hours=hours)
        maintenance = maintenance_of(old)
        with game.lander("two") as new:

            def meanwhile() -> None:
                new.drain()
                others = maintenance_of(new, hours=500)
                land(game, new, GUILD, b"?", b'{"event_type": "purchase_sword"}')
                for name in ("join_guild", "quarantine"):
                    others.maintain(game.name, name)
                others.maintain(f"{game.name}_state", "progress")
                land(game, new, GUILD)

            frozen_before(maintenance, moment, meanwhile)
            state = old.state.namespace
            order = (
                [(state, "progress")] if moment == "expire_ids" else [(game.name, "join_guild"), (state, "progress")]
            )
            for namespace, name in order:
                try:
                    maintenance.maintain(namespace, name)
                except IllegalArgumentException:  # more snapshots to expire than are left: Iceberg refuses
                    assert moment == "expire_snapshots"
                except LanderReplaced:
                    assert moment != "expire_snapshots" or name == "progress"
            if moment in ("expire_ids", "repeat_checkpoint"):
                with pytest.raises(LanderReplaced):
                    maintenance.maintain(state, "progress")
            remaining = {r.event_id for r in game.spark.table(f"lake.{state}.progress").collect()}
            assert remaining == {"at hour 0", "at hour 120"}
            assert new.state.checkpoint().epoch == new.catalog.epoch
            land(game, new, GUILD)
    assert game.land().records == 0
    assert len(game.ids()) == len(set(game.ids())) == 7


def frozen_before(maintenance: SparkMaintenance, moment: str, meanwhile: Callable[[], None]) -> None:
    """Run *meanwhile* once, just before that step of the maintenance."""
    done = list[bool]()

    def once() -> None:
        if not done:
            done.append(True)
            apart(meanwhile)

    if moment in ("expire_ids", "repeat_checkpoint"):
        commits: Any = maintenance._catalog.commits
        owner, name = (maintenance, moment) if moment == "repeat_checkpoint" else (commits, "delete")
        real = getattr(owner, name)
        setattr(owner, name, lambda *given, **named: (once(), real(*given, **named))[1])
        return
    call = maintenance._call

    def frozen(stop: Any, procedure: str) -> None:
        if procedure.startswith(moment):
            once()
        call(stop, procedure)

    maintenance._call = frozen  # type: ignore[method-assign]


def test_an_older_checkpoint_never_follows_a_newer_one(game: Game) -> None:
    """The stream commits after maintenance has read the checkpoint and before it repeats it."""
    with game.lander() as lander:
        land(game, lander, GUILD)
        maintenance = maintenance_of(lander)
        commits: Any = maintenance._catalog.commits
        append, done = commits.append, list[bool]()

        def late(*given: Any) -> None:
            if not done:
                done.append(True)
                apart(lambda: land(game, lander, GUILD))
            append(*given)

        commits.append = late
        maintenance.repeat_checkpoint(lander.state.namespace, "progress", kept=1)
        *_, before, last = checkpoints(metadata(game, "progress", lander.state.namespace))
        assert (last.kept, last.counts["records"]) == (1, 2)
        assert last.position == before.position


def checkpoints(metadata: Any) -> list[Checkpoint]:
    """Return the checkpoints in a table's snapshots, oldest first."""
    return [snapshot.checkpoint for snapshot in read_snapshots(metadata) if snapshot.checkpoint is not None]


def positions(lander: SparkLander) -> dict[str, Any]:
    return {name: checkpoint.position for name, checkpoint in lander.tables.checkpoints().items()}


def put(game: Game, table: str, name: str, age_seconds: float) -> Any:
    """Put a backdated file that is in no snapshot into the table's folder on HDFS; return its path."""
    jvm: Any = game.spark._jvm
    location = metadata(game, table)["location"]
    path = jvm.org.apache.hadoop.fs.Path(f"{location}/data/{name}")
    files = hdfs(game, path)
    files.create(path).close()
    ms = files.getFileStatus(path).getModificationTime() - int(age_seconds * 1000)
    files.setTimes(path, ms, ms)
    return path


def hdfs(game: Game, path: Any) -> Any:
    return path.getFileSystem(game.spark._jsc.hadoopConfiguration())


def test_old_orphan_files_are_deleted_from_hdfs_and_manifests_are_merged(
    game: Game, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By HDFS's clock: a driver whose clock is ten days ahead deletes no file of a commit in progress."""
    with game.lander() as lander:
        for _ in range(3):
            land(game, lander, GUILD)
        old = put(game, "join_guild", "old.parquet", ORPHAN_SECONDS + 60)
        new = put(game, "join_guild", "new.parquet", ORPHAN_SECONDS - 3600)
        maintenance = maintenance_of(lander)
        maintenance.maintain(game.name, "join_guild")
        assert hdfs(game, old).exists(old)  # the table is less than a day old
        assert manifests(game) == 1
        land(game, lander, GUILD)
        now, ahead = time.time_ns, int(10 * SWEEP_SECONDS * 1e9)
        monkeypatch.setattr("questlog.land.spark.maintenance.time.time_ns", lambda: now() + ahead)
        assert maintenance._is_due(game.name, "join_guild")
        maintenance.maintain(game.name, "join_guild")
        monkeypatch.undo()
        assert (hdfs(game, old).exists(old), hdfs(game, new).exists(new)) == (False, True)
        assert manifests(game) == 1
    assert len(game.ids()) == 4


def manifests(game: Game) -> int:
    return game.spark.table(f"lake.{game.name}.join_guild.manifests").count()  # type: ignore[no-any-return]


def test_tables_and_descriptions_follow_the_plan_while_no_events_arrive(game: Game) -> None:
    with game.lander() as lander, running(lander):
        until(lambda: comments(game) == ("A player joined.", None), seconds=120)
        text = PLAN.replace("A player joined.", "Somebody joined.")
        text = text.replace('guild = "string"', 'guild = { type = "string", description = "Which guild." }')
        (game.folder / "plan.toml").write_text(text + '[events.late.fields]\nn = "int"\n')
        until(lambda: comments(game) == ("Somebody joined.", "Which guild."), seconds=120)
        until(lambda: "late" in SparkTables(lander.catalog.twin(), game.name).names(), seconds=120)
        (game.folder / "plan.toml").write_text(text.replace("Which guild.", "Its guild.") + "[events.late]\n")
        game.send(GUILD)
        game.forward()
        until(lambda: lander._total.records == 1, seconds=120)
        until(lambda: comments(game) == ("Somebody joined.", "Its guild."), seconds=120)


def comments(game: Game) -> tuple[str | None, str | None]:
    """Return the descriptions of the table and of its field `guild`."""
    if "join_guild" not in SparkTables(IcebergCatalog(game.spark), game.name).names():
        return None, None
    table = metadata(game, "join_guild")
    schema = next(s for s in table["schemas"] if s["schema-id"] == table["current-schema-id"])
    guild = next(field for field in schema["fields"] if field["name"] == "guild")
    return table["properties"].get("comment"), guild.get("doc")


def test_a_table_that_a_backfill_creates_at_the_same_moment_is_used(
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


def test_schema_evolution_survives_a_concurrent_commit_of_maintenance(game: Game) -> None:
    with game.lander() as lander:
        land(game, lander, GUILD)
        maintenance, done = maintenance_of(lander), list[bool]()
        metadata_of = lander.catalog.metadata

        def late(namespace: str, name: str) -> Any:
            answer = metadata_of(namespace, name)
            if name == "join_guild" and len(done) < 2:  # also between the read and the swap
                done.append(True)
                apart(lambda: maintenance.repeat_checkpoint(namespace, name, kept=1))
            return answer

        lander.catalog.metadata = late  # type: ignore[method-assign]
        (game.folder / "plan.toml").write_text(PLAN.replace("A player joined.", "Somebody joined."))
        land(game, lander, GUILD)
        assert len(done) == 2
    assert comments(game)[0] == "Somebody joined."
    assert len(game.ids()) == 2
