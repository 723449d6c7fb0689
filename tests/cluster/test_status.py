"""`questlog status` and `questlog tail` answer within seconds, and name the server that is unreachable."""

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

UNUSED = "127.0.0.1:9"
SECONDS = 30
"""The limit on a busy machine; an idle one needs a third of it."""


@pytest.fixture
def game(stack: Stack, tmp_path: Path) -> Project:
    """A project with its topic, before the first event."""
    project = Project(tmp_path, stack)
    project.run("topic", "create")
    return project


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """A server that accepts connections and never answers, as a frozen one does."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_project_without_landed_events(game: Project) -> None:
    report = game.status()
    assert (report["topic"]["records"], report["tables"], report["lake"]) == (0, [], {"schema": game.name})
    done = game.run("status", code=0)
    assert "none yet; questlog up lands the events that are waiting" in done.stdout
    assert "no forwarder is running" in done.stdout


@pytest.mark.parametrize("how", ["away", "frozen"])
def test_an_unreachable_kafka_is_named_and_the_rest_is_reported(game: Project, how: str) -> None:
    with silent() as frozen:
        address = UNUSED if how == "away" else frozen
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
def test_an_unreachable_presto_is_named_and_the_rest_is_reported(game: Project, how: str) -> None:
    with silent() as frozen:
        address = UNUSED if how == "away" else frozen
        game.configure(presto=f"http://{address}")
        started = time.monotonic()
        done = game.run("status", code=1)
        assert time.monotonic() - started < SECONDS
    assert f"tables of {game.name}: Presto at http://{address} does not answer" in done.stdout
    assert f"topic {game.topic}: 0 records, 0 waiting to be landed" in done.stdout


@pytest.mark.skipif(not MAY_DIE, reason="freezes the metastore, which others use")
@pytest.mark.parametrize("how", ["away", "frozen"])
def test_an_unreachable_metastore_is_named(game: Project, how: str) -> None:
    """Presto reports it too, but later than questlog waits."""
    (metastore,) = [each for each in game.stack.status() if each.name == "metastore"]
    supervisor = recall(game.stack.folder / "run" / "supervisor.json")
    assert supervisor is not None
    os.kill(supervisor.pid, signal.SIGSTOP)  # or it would restart the metastore first
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
