"""What every implementation of `Lander` promises: the log in the tables, once, counted, one lander at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from questlog.errors import LanderBusy
from questlog.lake.ledger import Ledger, read_ledger
from questlog.lake.state import load_state
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record

PLAN = """
[game]
dedup_hours = 24
[events.join_guild.fields]
guild = "string"
[events.purchase_sword.fields]
price = "decimal(12,2)"
"""
GUILD = b'{"event_type": "join_guild", "guild": "wolves"}'
SWORD = b'{"event_type": "purchase_sword", "price": "1.50"}'
BAD = b'{"event_type": "purchase_sword", "price": "a lot"}'


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def record(event_id: str, body: bytes = GUILD, *, chosen: bool = False) -> bytes:
    return encode_record(body, id=event_id, received_ms=now_ms(), client_id=chosen)


@pytest.fixture(params=["embedded"])
def game(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pipeline]:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path, profile=request.param, land_seconds=0.2)
    yield pipeline
    pipeline.log.close()  # type: ignore[attr-defined]


def ledger(game: Pipeline) -> Ledger:
    return read_ledger(game.project.catalog, game.log.end())


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_drain_lands_what_is_logged_and_says_what_it_did(game: Pipeline) -> None:
    game.log.append([record("a"), record("b", SWORD), record("c", BAD)])
    with game.lander() as lander:
        landed = lander.drain()
        assert (landed.records, landed.rows) == (3, {"join_guild": 1, "purchase_sword": 1, "quarantine": 1})
        assert lander.drain().records == 0
    assert {n: t.rows for n, t in load_state(game.project.catalog).tables.items()} == landed.rows


def test_an_empty_log_lands_nothing_and_makes_no_table(game: Pipeline) -> None:
    with game.lander() as lander:
        assert lander.drain().records == 0
    assert load_state(game.project.catalog).tables == {}


def test_the_ledger_balances_per_table_type_and_reason(game: Pipeline) -> None:
    game.log.append([record("a"), record("b", SWORD), record("c", BAD), record("d", b"{}")])
    game.log.append([record("mine", chosen=True), record("mine", chosen=True)])
    before = ledger(game)
    assert (before.accepted, before.waiting, before.rows) == (6, 6, ())
    with game.lander() as lander:
        lander.drain()
    after = ledger(game)
    assert (after.accepted, after.waiting, after.imbalance) == (6, 0, 0)
    assert {
        (r.outcome, r.table, r.event_type, r.reason): r.records for r in after.rows if r.outcome != "duplicate"
    } == {
        ("landed", "join_guild", "join_guild", ""): 2,
        ("landed", "purchase_sword", "purchase_sword", ""): 1,
        ("quarantined", "quarantine", "purchase_sword", "wrong_type"): 1,
        ("quarantined", "quarantine", "", "no_event_type"): 1,
    }
    assert after.total("duplicate") == 1
    assert {name: facts[0] for name, facts in after.tables.items()} == {
        "join_guild": 2,
        "purchase_sword": 1,
        "quarantine": 2,
    }


def test_an_id_sent_again_is_dropped_across_batches_and_restarts(game: Pipeline) -> None:
    for _ in range(3):
        game.log.append([record("mine", chosen=True)])
        with game.lander() as lander:
            lander.drain()
    assert (ledger(game).total("landed"), ledger(game).total("duplicate")) == (1, 2)


def test_an_id_the_server_chose_is_never_taken_for_a_repeat(game: Pipeline) -> None:
    game.log.append([record("same"), record("same")])
    with game.lander() as lander:
        lander.drain()
    assert ledger(game).total("landed") == 2


def test_any_batch_size_gives_the_same_rows(tmp_path: Path) -> None:
    results = []
    for size in (1, 3, 1000):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "plan.toml").write_text(PLAN)
        pipeline = open_pipeline(folder, batch_records=size)
        for number in range(7):
            pipeline.log.append([record(f"e{number}"), record(f"m{number % 2}", SWORD, chosen=True)])
        with pipeline.lander() as lander:
            lander.drain()
        rows = pipeline.sql("select event_type, event_id from events order by all").rows()
        results.append((rows, ledger(pipeline).rows))
    assert results[0] == results[1] == results[2]


def test_run_lands_soon_after_quiet_and_everything_when_stopped(game: Pipeline) -> None:
    """An event that comes after quiet does not wait for a batch; one that comes with the stop is landed too."""
    stop = threading.Event()
    with game.lander() as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            game.log.append([record("a")])
            until(lambda: ledger(game).total("landed") == 1)
            game.log.append([record("b")])
        finally:
            stop.set()
            thread.join(30)
    assert ledger(game).total("landed") == 2


def test_a_second_lander_is_refused_and_told_who_holds_the_lease(game: Pipeline) -> None:
    with (
        game.lander(),
        pytest.raises(LanderBusy, match=r"process \d+ \(.+\) has been landing") as refused,
        game.lander(),
    ):
        pass
    assert "kill" in refused.value.hint
    with game.lander() as lander:
        lander.drain()


def test_a_stop_ends_a_drain_between_two_batches(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path, batch_records=1)
    for number in range(5):
        pipeline.log.append([record(f"e{number}")])
    stop = threading.Event()
    stop.set()
    with pipeline.lander() as lander:
        assert lander.drain(stop).records == 1
        assert lander.drain().records == 4
