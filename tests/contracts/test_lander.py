"""Every `Lander` moves the log into the tables once, counts it, and works alone.

tests/cluster/test_spark_contract.py runs this suite on Spark. A third lander joins by adding a row to GAMES.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from questlog.errors import LanderBusy
from questlog.lake.ledger import read_ledger
from questlog.pipeline import open_pipeline
from questlog.record import encode_record
from support.waiting import until

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


@dataclass(frozen=True)
class Counts:
    """Where the records of a log are: `rows` per table, `quarantined` by claimed event type and reason."""

    accepted: int
    waiting: int
    imbalance: int
    duplicate: int
    rows: Mapping[str, int]
    quarantined: Mapping[tuple[str, str], int]


class Game(Protocol):
    """A log, its tables, and landers that move records from one to the other."""

    def send(self, *records: bytes) -> None:
        """Append *records* to the log that the landers read."""

    def lander(self) -> AbstractContextManager[Any]:
        """Return a lander, as a new process would open it."""

    def counts(self) -> Counts:
        """Return where the records are now."""

    def ids(self) -> list[tuple[str, str]]:
        """Return (table, id) of every row."""


class Embedded:
    """The landing loop over the SQLite log and PyIceberg's tables."""

    def __init__(self, folder: Path, batch_records: int) -> None:
        folder.mkdir()
        (folder / "plan.toml").write_text(PLAN)
        self._pipeline = open_pipeline(folder, batch_records=batch_records, land_seconds=0.2)

    def send(self, *records: bytes) -> None:
        self._pipeline.log.append(records)

    def lander(self) -> AbstractContextManager[Any]:
        return self._pipeline.lander()

    def counts(self) -> Counts:
        ledger = read_ledger(self._pipeline.project.catalog, self._pipeline.log.end())
        rows = {name: facts[0] for name, facts in ledger.tables.items()}
        bad = {(r.event_type, r.reason): r.records for r in ledger.rows if r.outcome == "quarantined"}
        return Counts(ledger.accepted, ledger.waiting, ledger.imbalance, ledger.total("duplicate"), rows, bad)

    def ids(self) -> list[tuple[str, str]]:
        landed = []
        for table in self.counts().rows:
            landed += [(table, *row) for row in self._pipeline.sql(f"select event_id from {table}").rows()]
        return sorted(landed)

    def close(self) -> None:
        self._pipeline.close()
        self._pipeline.log.close()


GAMES: dict[str, Callable[[Path, int], Any]] = {"embedded": Embedded}
"""Name -> function of a folder and a batch size that returns a game."""


@pytest.fixture(params=sorted(GAMES))
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Game]]:
    """Return a function that creates games, each with its own log."""
    made: list[Any] = []

    def new(batch_records: int = 50_000) -> Game:
        made.append(GAMES[request.param](tmp_path / f"game{len(made)}", batch_records))
        game: Game = made[-1]
        return game

    yield new
    for game in made:
        game.close()


@pytest.fixture
def game(make: Callable[..., Game]) -> Game:
    return make()


def drain(game: Game) -> Any:
    with game.lander() as lander:
        return lander.drain()


def test_drain_lands_the_log_and_reports_what_it_landed(game: Game) -> None:
    game.send(record("a"), record("b", SWORD), record("c", BAD))
    with game.lander() as lander:
        landed = lander.drain()
        assert (landed.records, landed.rows) == (3, {"join_guild": 1, "purchase_sword": 1, "quarantine": 1})
        assert lander.drain().records == 0
    assert game.counts().rows == landed.rows


def test_an_empty_log_lands_nothing_and_creates_no_table(game: Game) -> None:
    assert drain(game).records == 0
    assert game.counts().rows == {}


def test_every_record_is_counted_by_table_type_and_reason(game: Game) -> None:
    game.send(record("a"), record("b", SWORD), record("c", BAD), record("d", b"{}"))
    game.send(record("mine", chosen=True), record("mine", chosen=True))
    before = game.counts()
    assert (before.accepted, before.waiting, before.rows) == (6, 6, {})
    drain(game)
    assert game.counts() == Counts(
        accepted=6, waiting=0, imbalance=0, duplicate=1,
        rows={"join_guild": 2, "purchase_sword": 1, "quarantine": 2},
        quarantined={("purchase_sword", "wrong_type"): 1, ("", "no_event_type"): 1},
    )  # fmt: skip


def test_a_retried_event_is_dropped_across_batches_and_restarts(game: Game) -> None:
    for _ in range(3):
        game.send(record("mine", chosen=True))
        drain(game)
    assert (game.counts().rows, game.counts().duplicate) == ({"join_guild": 1}, 2)


def test_an_id_chosen_by_the_server_is_never_a_duplicate(game: Game) -> None:
    game.send(record("same"), record("same"))
    drain(game)
    assert game.counts().rows == {"join_guild": 2}


def test_any_batch_size_gives_the_same_rows(make: Callable[..., Game]) -> None:
    results = []
    for size in (1, 3, 1000):
        game = make(batch_records=size)
        for number in range(7):
            game.send(record(f"e{number}"), record(f"m{number % 2}", SWORD, chosen=True))
        drain(game)
        results.append((game.ids(), game.counts()))
    assert results[0] == results[1] == results[2]
    assert results[0][1].rows == {"join_guild": 7, "purchase_sword": 2}


def test_run_lands_a_single_event_soon_and_the_next_lander_lands_the_rest(game: Game) -> None:
    stop = threading.Event()
    with game.lander() as lander:
        thread = threading.Thread(target=lander.run, args=(stop,))
        thread.start()
        try:
            game.send(record("a"))
            until(lambda: game.counts().rows == {"join_guild": 1})
            game.send(record("b"))
        finally:
            stop.set()
            thread.join(120)
    drain(game)
    assert game.ids() == [("join_guild", "a"), ("join_guild", "b")]


def test_a_second_lander_is_refused_with_a_hint(game: Game) -> None:
    with game.lander(), pytest.raises(LanderBusy) as refused, game.lander():
        pass
    assert refused.value.hint
    drain(game)


def test_a_stop_ends_a_drain_between_batches_and_the_next_drain_lands_the_rest(make: Callable[..., Game]) -> None:
    game = make(batch_records=1)
    for number in range(5):
        game.send(record(f"e{number}"))
    stop = threading.Event()
    stop.set()
    with game.lander() as lander:
        assert lander.drain(stop).records + lander.drain().records == 5
    assert game.counts().rows == {"join_guild": 5}
