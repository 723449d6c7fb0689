"""The same load, landed on a standalone master: its executor, its worker and then the master itself are killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from cluster.faults.test_faults import ROUNDS, SEED
from questlog.stack import Stack
from support.cluster.running_system import System
from support.waiting import until

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A master and a worker, alongside the servers that all tests share."""
    with Stack(tmp_path_factory.mktemp("spark"), ports="free", only=["spark", "spark-worker"]) as running:
        yield running


@pytest.fixture(scope="module")
def system(stack: Stack, spark: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    print(f"\nseed {SEED}: {ROUNDS} round(s)")
    folder = tmp_path_factory.mktemp("drill") / "game"
    with System(stack, folder, seed=SEED, master=spark.addresses.spark) as running:
        yield running


def executors(spark: Stack) -> list[int]:
    """Return the processes that run tasks for the worker."""
    (worker,) = [each for each in spark.status() if each.name == "spark-worker"]
    children = psutil.Process(worker.pid).children(recursive=True)
    return [child.pid for child in children if "CoarseGrainedExecutorBackend" in " ".join(child.cmdline())]


def executor_killed(spark: Stack) -> int:
    until(lambda: bool(executors(spark)), "an executor runs")
    return executors(spark)[0]


def worker_killed(spark: Stack) -> int:
    return next(each.pid for each in spark.status() if each.name == "spark-worker")


def master_killed(spark: Stack) -> int:
    return next(each.pid for each in spark.status() if each.name == "spark")


@pytest.mark.timeout(900 * ROUNDS)
@pytest.mark.parametrize("victim", [executor_killed, worker_killed, master_killed], ids=lambda victim: victim.__name__)
def test_nothing_is_lost_or_duplicated(system: System, spark: Stack, victim: Callable[[Stack], int]) -> None:
    chance = random.Random(f"{SEED}-{victim.__name__}")  # type: ignore[attr-defined]
    for number in range(ROUNDS):
        begun = time.time()
        time.sleep(chance.uniform(0, 3))  # a random moment
        os.kill(victim(spark), signal.SIGKILL)
        time.sleep(1)  # events keep coming
        seconds = system.await_exact(begun, victim.__name__)  # type: ignore[attr-defined]
        until(lambda: all(each.healthy for each in spark.status()), "master and worker work", 240)
        print(
            f" round {number + 1}: complete {seconds + 1:.1f} s later;"
            f" {len(system.players.acknowledged(begun))} acknowledged meanwhile",
            flush=True,
        )
