"""`questlog status` and `questlog tail` answer in seconds, whoever is away, and say who it is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.stack import Stack
from questlog.stack.processes import recall
from support.cluster.cluster_project import Project
from support.cluster.spark_options import MAY_DIE
from support.waiting import until

NOBODY = "127.0.0.1:9"
SECONDS = 30
"""What a busy machine may take; on a quiet one it is a third of that."""


@pytest.fixture
def game(stack: Stack, tmp_path: Path) -> Project:
    """A project that nothing was sent to yet, with its topic."""
    project = Project(tmp_path, stack)
    project.run("topic", "create")
    return project


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A server that takes calls and never answers, as a frozen one does."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_project_that_has_landed_nothing(game: Project) -> None:
    report = game.status()
    assert (report["topic"]["records"], report["tables"], report["lake"]) == (0, [], {"schema": game.name})
    done = game.run("status", code=0)
    assert "none yet; questlog up lands the events that are waiting" in done.stdout
    assert "no forwarder is running" in done.stdout


@pytest.mark.parametrize("how", ["away", "frozen"])
def test_kafka_is_said_to_be_away_and_the_rest_is_told(game: Project, how: str) -> None:
    with silent() as frozen:
        address = NOBODY if how == "away" else frozen
        game.configure(kafka=address)
        started = time.monotonic()
        done = game.run("status", code=1)
        assert time.monotonic() - started < SECONDS
        assert f"topic {game.topic}: Kafka at {address} does not answer" in done.stdout
        assert "tables of" in done.stdout and "none yet" in done.stdout
        started = time.monotonic()
        refused = game.run("tail", "--no-follow", code=1)
        assert time.monotonic() - started < SECONDS
        assert f"Kafka at {address} does not answer" in refused.stderr
        assert "questlog tail --here" in refused.stderr
    assert game.run("tail", "--here", "--no-follow").stdout == ""


@pytest.mark.parametrize("how", ["away", "frozen"])
def test_presto_is_said_to_be_away_and_the_rest_is_told(game: Project, how: str) -> None:
    with silent() as frozen:
        address = NOBODY if how == "away" else frozen
        game.configure(presto=f"http://{address}")
        started = time.monotonic()
        done = game.run("status", code=1)
        assert time.monotonic() - started < SECONDS
    assert f"tables of {game.name}: Presto at http://{address} does not answer" in done.stdout
    assert f"topic {game.topic}: 0 records, 0 waiting to be landed" in done.stdout


@pytest.mark.skipif(not MAY_DIE, reason="freezes the metastore, which others use")
@pytest.mark.parametrize("how", ["away", "frozen"])
def test_the_metastore_is_said_to_be_away(game: Project, how: str) -> None:
    """Presto answers for it, in its own time; questlog does not wait that long."""
    (metastore,) = [each for each in game.stack.status() if each.name == "metastore"]
    supervisor = recall(game.stack.folder / "run" / "supervisor.json")
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # or it starts another before anybody has asked
    try:
        os.kill(metastore.pid, signal.SIGKILL if how == "away" else signal.SIGSTOP)
        started = time.monotonic()
        done = game.run("status", code=None)
        assert time.monotonic() - started < SECONDS
    finally:
        for pid in (metastore.pid, supervisor.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert (done.returncode, "metastore" in done.stdout.lower()) == (1, True), done.stdout
    until(lambda: all(each.healthy for each in game.stack.status()), "the servers are healthy again", 180, every=0.5)
