"""Data stored by an earlier version opens unchanged, with the same answers and every event once."""

from __future__ import annotations

import fcntl
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from questlog.client.queue import Queue
from questlog.collector.keys import digest_of
from questlog.collector.keys.store import KeyStore
from questlog.importer import Import, Source
from questlog.lake.iceberg import IcebergTables
from questlog.lake.ledger import Ledger, read_ledger
from questlog.lake.maintenance import Maintenance
from questlog.log.kafka.spool import keep_from, read_forwarding, read_handover
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record
from support.paths import TESTS

DATA = TESTS / "data"
HOME = Path("/tmp/questlog-0.1.0-fixture")
EXPECTED = json.loads((DATA / "0.1.0.json").read_text("utf-8"))


@pytest.fixture
def stored() -> Iterator[Path]:
    """The folder of version 0.1.0 at its own path; test runs that need it at the same time take turns."""
    with open(f"{HOME}.lock", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        shutil.rmtree(HOME, ignore_errors=True)
        with tarfile.open(DATA / "0.1.0.tar.xz") as archive:
            archive.extractall(HOME, filter="data")
        (HOME / "game" / ".questlog" / "keys.db").chmod(0o600)
        yield HOME
        shutil.rmtree(HOME)


@pytest.fixture
def game(stored: Path) -> Iterator[Pipeline]:
    pipeline = open_pipeline(stored / "game")
    yield pipeline
    pipeline.close()
    pipeline.log.close()


def answers(game: Pipeline) -> dict[str, Any]:
    return {text: [list(map(str, row)) for row in game.sql(text).rows()] for text in EXPECTED["answers"]}


def ledger_of(game: Pipeline) -> Ledger:
    return read_ledger(game.project.catalog, game.log.end())


def land(game: Pipeline) -> None:
    with game.lander() as lander:
        lander.drain()


def test_it_answers_as_the_version_that_wrote_it(game: Pipeline) -> None:
    assert answers(game) == EXPECTED["answers"]
    ledger = ledger_of(game)
    assert (ledger.accepted, ledger.waiting) == (EXPECTED["accepted"], EXPECTED["waiting"])
    assert ledger.half_landed  # one table is ahead of the checkpoint, as the killed lander left it


def test_its_tail_lands_once_and_the_ledger_balances(game: Pipeline) -> None:
    land(game)
    ledger = ledger_of(game)
    assert (ledger.accepted, ledger.waiting, ledger.imbalance) == (EXPECTED["accepted"], 0, 0)
    assert not ledger.half_landed
    assert answers(game) == EXPECTED["answers"]


def test_its_files_are_merged_and_cleaned_up_without_a_row_lost(game: Pipeline) -> None:
    land(game)
    tables = IcebergTables(game.project.catalog, game.project.warehouse)
    maintenance = Maintenance(tables, lambda: None, grace_seconds=0)
    before = tables.state.execute("select count(*) from questlog_files").fetchone()[0]
    while maintenance.step():
        pass
    assert tables.state.execute("select count(*) from questlog_files").fetchone()[0] < before
    tables.close()
    assert answers(game) == EXPECTED["answers"]


def test_new_events_land_beside_the_old_ones_and_a_remembered_id_is_a_duplicate(game: Pipeline) -> None:
    body = b'{"event_type": "join_guild", "clan": "cranes", "rank": 1}'
    game.log.append(
        [
            encode_record(body, id="brand-new", received_ms=1_790_000_000_500, client_id=True),
            encode_record(body, id="repeat-0", received_ms=1_790_000_000_500, client_id=True),
        ]
    )
    before = ledger_of(game)
    land(game)
    ledger = ledger_of(game)
    assert ledger.accepted == EXPECTED["accepted"] + 2 == before.accepted
    assert ledger.imbalance == 0
    assert game.sql("select event_id from join_guild where clan = 'cranes'").rows() == [("brand-new",)]


def test_an_interrupted_import_resumes(game: Pipeline) -> None:
    path = str(game.project.root / "players.jsonl")
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"event_type":"join_guild","clan":"foxes","rank":1}\n')
    steps = list(Import(game, Source(path), name=path).run())
    assert [(step.events, step.earlier) for step in steps] == [(1, 20)]
    assert game.sql("select count(*) from join_guild where clan = 'foxes'").rows() == [(21,)]


def test_its_write_keys_still_open_the_same_sources(stored: Path) -> None:
    texts = json.loads((stored / "keys.json").read_text())
    keys = {key.source: key for key in KeyStore(stored / "game" / ".questlog" / "keys.db").read()}
    assert {source: key.digest for source, key in keys.items()} == {s: digest_of(t) for s, t in texts.items()}
    web, server, old = keys["web"], keys["server"], keys["old"]
    assert (web.origins, web.rate, web.secret) == (("https://game.example.com",), 50.0, b"")
    assert len(server.secret) == 64
    assert (web.ends_ms, old.ends_ms) == (None, 1_790_000_000_000)


def test_the_events_of_a_clients_queue_are_read(stored: Path) -> None:
    queue = Queue(stored / "client.db", max_bytes=1 << 20)
    waiting = [json.loads(event.body) for event in queue.head(10, 1 << 20)]
    assert [event["event_id"] for event in waiting] == ["queued-0", "queued-1", "queued-2"]
    assert {event["guild"] for event in waiting} == {"owls"}


def test_a_forwarders_memory_is_read(stored: Path) -> None:
    spool = stored / "spool"
    forwarding = read_forwarding(spool, spool / "log")
    assert (forwarding.sent, forwarding.landed) == ({0: 75, 1: 9}, {0: 60, 1: 7})
    assert forwarding.error is not None and forwarding.error.hint == "start Kafka"
    handover = read_handover(spool)
    assert handover is not None and (handover.id, handover.state) == ("h1", "sealed")
    assert keep_from(spool) == {0: 75, 1: 9}
