"""What the embedded lander guarantees beyond the contract of all landers."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.errors import LanderBusy
from questlog.lake.ledger import read_ledger
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record
from support.waiting import until


@pytest.fixture
def game(tmp_path: Path) -> Iterator[Pipeline]:
    (tmp_path / "plan.toml").write_text("[events.join_guild.fields]\n")
    pipeline = open_pipeline(tmp_path, batch_records=1, land_seconds=0.2)
    yield pipeline
    pipeline.log.close()


def send(game: Pipeline, count: int) -> None:
    for number in range(count):
        game.log.append([encode_record(b'{"event_type": "join_guild"}', id=f"e{number}", received_ms=1)])


def landed(game: Pipeline) -> int:
    return read_ledger(game.project.catalog, game.log.end()).total("landed")


def test_events_logged_before_a_stop_are_landed(game: Pipeline) -> None:
    stop = threading.Event()
    with game.lander() as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            send(game, 1)
            until(lambda: landed(game) == 1, "the first event has landed")
            send(game, 1)
        finally:
            stop.set()
            thread.join(60)
    assert landed(game) == 2


def test_a_stopped_drain_ends_after_the_current_batch(game: Pipeline) -> None:
    send(game, 5)
    stop = threading.Event()
    stop.set()
    with game.lander() as lander:
        assert lander.drain(stop).records == 1
        assert lander.drain().records == 4


def test_a_refused_lander_names_the_holder_of_the_lease(game: Pipeline) -> None:
    with (
        game.lander(),
        pytest.raises(LanderBusy, match=r"process \d+ \(.+\) has been landing") as refused,
        game.lander(),
    ):
        pass
    assert "kill" in refused.value.hint
