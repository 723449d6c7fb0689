"""A backfill adds what the tables lack, once, wherever it is interrupted and whatever runs alongside it."""

# ruff: noqa: F811

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from support.waiting import until

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from confluent_kafka import Producer

from cluster.test_spark_lander import GUILD, PLAN, Game, game, spark  # noqa: F401
from questlog.backfill import BackfillResult
from questlog.backfill.bounds import OPEN, Bound, parse_bound
from questlog.backfill.missing import MissingRows
from questlog.backfill.topic import TopicBackfill, find_part
from questlog.errors import LanderFenced, QuestlogError
from questlog.land.spark.source import TopicSource
from support.cluster.spark_options import Kept

LATE = b'{"event_type": "late", "n": 1}'
GROWN = PLAN + '[events.late.fields]\nn = "int"\n'


def backfill(game: Game, into: str = "", **more: Any) -> TopicBackfill:
    return TopicBackfill(
        lambda: Kept(game.spark), game.pipeline.plan, topic=game.name, kafka=game.kafka, namespace=game.name,
        data=game.pipeline.project.data, records=more.get("records", 500), into=into,
    )  # fmt: skip


def fill(game: Game, start: Bound = OPEN, until: Bound = OPEN, **more: Any) -> BackfillResult:
    return backfill(game, **more).run(start, until, more.get("stop", threading.Event()), lambda *_: None)


def send(game: Game, *bodies: bytes, chosen: str = "") -> None:
    game.send(*bodies, chosen=chosen)
    game.forward()


def grow(game: Game) -> None:
    (game.folder / "plan.toml").write_text(GROWN)


def test_events_of_a_type_that_was_unknown_move_from_quarantine_to_their_table_once(game: Game) -> None:
    send(game, GUILD, LATE, b"not json", LATE)
    assert game.land().rows == {"join_guild": 1, "quarantine": 3}
    before = game.ids()
    grow(game)
    send(game, LATE)
    done = fill(game)
    assert (done.records, done.rows, done.held, done.cleared, done.waiting) == (4, {"late": 2}, 2, 2, 1)
    assert game.rows("quarantine", "reason") == [("not_json",)]
    assert game.ids() == before
    again = fill(game)
    assert (again.rows, again.cleared) == ({}, 0)
    assert game.land().rows == {"late": 1}
    assert len(game.ids()) == len(set(game.ids())) == 5


def test_a_dropped_table_is_filled_again_and_no_other_changes(game: Game) -> None:
    send(game, *[GUILD] * 5, b'{"event_type": "purchase_sword", "price": "1.50"}', b"?")
    game.land()
    before = game.ids()
    game.spark.sql(f"drop table lake.{game.name}.join_guild purge")
    assert fill(game, records=3).rows == {"join_guild": 5}
    assert game.ids() == before


def test_resent_records_and_repeated_ids_stay_duplicates(game: Game) -> None:
    """A retry whose first record had an unknown type, a spool sent twice, a flat record of an old producer."""
    send(game, LATE, GUILD, chosen="mine")
    (game.pipeline.project.data / "forward.db").unlink()
    send(game, LATE, chosen="mine")
    producer = Producer(game.kafka)
    producer.produce(game.name, b'{"event_type": "late", "n": 7, "Host": "a"}', partition=0)
    producer.flush()
    landed = game.land()
    assert landed.rows == {"quarantine": 2}
    grow(game)
    assert fill(game).rows == {"late": 2}
    assert sorted(game.rows("late", "n")) == [(1,), (7,)]
    assert game.rows("quarantine", "event_id") == []


def test_offsets_and_times_select_the_part(game: Game) -> None:
    send(game, LATE, LATE, LATE, LATE)
    game.land()
    grow(game)
    (partition,) = {row[0] for row in game.rows("quarantine", "log_partition")}
    assert fill(game, Bound({partition: 1}), Bound({partition: 3})).rows == {"late": 2}
    assert fill(game, parse_bound("2030-01-01")).records == 0
    assert fill(game, parse_bound("2020-01-01"), parse_bound("2030-01-01T00:00")).rows == {"late": 2}


@pytest.mark.parametrize("step", ["add", "clear"])
def test_the_next_backfill_completes_one_that_died(game: Game, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send(game, LATE, GUILD, b'{"event_type": "later"}')
    game.land()
    (game.folder / "plan.toml").write_text(GROWN + '[events.later.fields]\nn = "int"\n')

    class Died(Exception):
        pass

    def dying(*arguments: Any) -> None:
        raise Died

    with monkeypatch.context() as patch:
        if step == "clear":
            patch.setattr(MissingRows, "_clear", dying)
        else:
            done = iter(range(1))
            add = MissingRows._count

            def count(self: MissingRows, name: str, rows: int) -> None:
                add(self, name, rows)
                if next(done, None) is not None:
                    raise Died

            patch.setattr(MissingRows, "_count", count)
        with pytest.raises(Died):
            fill(game)
    fill(game)
    assert game.rows("quarantine") == []
    assert len(game.ids()) == len(set(game.ids())) == 3


def test_a_backfill_that_is_killed_or_interrupted_resumes(game: Game) -> None:
    """Signals end the command and its Spark."""
    send(game, *[LATE] * 400, GUILD)
    game.land()
    grow(game)
    command = [sys.executable, "-m", "questlog", "backfill", "--json", "--slice"]
    assert cut_off(game, [*command, "30"], signal.SIGKILL) == -signal.SIGKILL
    assert cut_off(game, [*command, "30"], signal.SIGINT) == 130
    assert added(game) < 400
    done = fill(game)
    assert done.records == 401
    assert 0 < done.held < 401
    assert game.rows("quarantine", "event_id") == []
    assert len(game.ids()) == len(set(game.ids())) == 401


def cut_off(game: Game, command: list[str], end: signal.Signals) -> int:
    """Send the signal once the command has added rows; return its exit code."""
    before = added(game)
    with subprocess.Popen(command, cwd=game.folder, start_new_session=True, stdout=subprocess.PIPE) as process:
        until(lambda: added(game) > before or process.poll() is not None, seconds=120)
        process.send_signal(end)
        return process.wait(60)


def added(game: Game) -> int:
    """Return how many rows the backfill has added."""
    names = [row.tableName for row in game.spark.sql(f"show tables in lake.{game.name}").collect()]
    if "late" not in names:
        return 0
    game.spark.sql(f"refresh table lake.{game.name}.late")
    return len(game.rows("late", "n"))


def test_a_backfill_beside_a_running_lander_loses_and_duplicates_nothing(game: Game) -> None:
    for _ in range(5):
        send(game, LATE, GUILD, b"?")
    game.land()
    stop = threading.Event()
    with game.lander() as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        sent = 15
        try:
            grow(game)
            for _ in range(3):
                send(game, LATE, GUILD, b"?")
                sent += 3
                fill(game, records=10)
            until(lambda: lander._checkpoint.counts.get("records", 0) == sent)
        finally:
            stop.set()
            thread.join(90)
    assert len(game.ids()) == len(set(game.ids())) == sent
    assert len(game.rows("late")) == 8
    assert len(game.rows("quarantine")) == 8


def test_the_older_of_two_backfills_fails_before_it_adds_rows(game: Game, tmp_path: Path) -> None:
    send(game, LATE)
    game.land()
    grow(game)
    source = TopicSource(game.kafka, game.name)
    old, new = (MissingRows(game.spark, game.name, game.pipeline.plan, source, records=500) for _ in range(2))
    first, until = find_part(game.kafka, game.name, OPEN, OPEN)
    old.begin()
    new.begin()
    with pytest.raises(LanderFenced, match="another backfill"):
        old.add(first, until, threading.Event(), lambda *_: None)
    new.add(first, until, threading.Event(), lambda *_: None)
    assert len(game.ids()) == len(set(game.ids())) == 1


def test_new_tables_hold_every_event_under_the_current_plan(game: Game) -> None:
    send(game, LATE, GUILD, b"?", *[GUILD] * 6)
    game.land()
    grow(game)
    into = f"{game.name}_new"
    stop = threading.Event()
    part = backfill(game, into=into, records=3).run(OPEN, OPEN, stop, lambda *_: stop.set())
    assert part.records == 3
    rest = fill(game, into=into)
    assert part.records + rest.records == 9
    rows = {name: game.spark.table(f"lake.{into}.{name}").count() for name in ("join_guild", "late", "quarantine")}
    assert rows == {"join_guild": 7, "late": 1, "quarantine": 1}
    assert fill(game, into=into).records == 0
    assert game.rows("quarantine", "reason") != []
    with pytest.raises(QuestlogError, match="the lander fills"):
        backfill(game, into=game.name)
    with pytest.raises(QuestlogError, match="no backfill created it"):
        fill(game, into=f"{game.name}_state")


def test_new_tables_from_a_later_offset_resume_from_it(game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-landed first batch is not finished from the beginning of the topic."""
    from questlog.land.spark.state import LanderState

    send(game, GUILD, GUILD, GUILD)
    into = f"{game.name}_new"
    ends = fill(game, into=f"{game.name}_all").until
    partition = max(ends, key=lambda p: ends[p])
    with monkeypatch.context() as patch:
        save = LanderState.save

        def dying(self: Any, checkpoint: Any, *seen: Any, **fence: Any) -> None:
            if checkpoint.counts.get("records"):
                raise RuntimeError("died")
            save(self, checkpoint, *seen, **fence)

        patch.setattr(LanderState, "save", dying)
        with pytest.raises(RuntimeError, match="died"):
            fill(game, Bound({partition: 1}), into=into)
    fill(game, Bound({partition: 1}), into=into)
    assert game.spark.table(f"lake.{into}.join_guild").count() == 2
