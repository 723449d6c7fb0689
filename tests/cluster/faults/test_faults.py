"""Every server and every part of questlog fails under 200 events/s; Presto counts each acknowledged event once.

Recovery is automatic: the stack's supervisor restarts servers, and questlog's processes are restarted as by systemd.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from questlog.stack import Stack
from support.cluster.running_system import System
from support.cluster.spark_options import MAY_DIE
from support.waiting import until

ROUNDS = int(os.environ.get("QUESTLOG_FAULTS", "1"))
SEED = int(os.environ.get("QUESTLOG_SEED", random.randrange(10**6)))
Chance = random.Random

if not MAY_DIE:
    pytest.skip("kills servers, so it needs its own stack", allow_module_level=True)


@pytest.fixture(scope="module")
def system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    print(f"\nseed {SEED}: {ROUNDS} round(s)")
    with System(stack, tmp_path_factory.mktemp("drill") / "game", seed=SEED) as running:
        yield running


def kafka_killed(system: System, chance: Chance) -> None:
    system.kill_server("kafka")


def kafka_frozen_for_30_seconds(system: System, chance: Chance) -> None:
    pid = system.pid("kafka")
    os.kill(pid, signal.SIGSTOP)
    time.sleep(30)  # the outage
    os.kill(pid, signal.SIGCONT)


def namenode_killed(system: System, chance: Chance) -> None:
    system.kill_server("namenode")


def datanode_killed(system: System, chance: Chance) -> None:
    system.kill_server("datanode")


def metastore_killed(system: System, chance: Chance) -> None:
    system.kill_server("metastore")


def presto_killed(system: System, chance: Chance) -> None:
    system.kill_server("presto")


def driver_killed(system: System, chance: Chance) -> None:
    system.lander.kill()


def drivers_java_killed(system: System, chance: Chance) -> None:
    """Only the JVM half of the driver."""
    (java,) = system.lander.children("org.apache.spark.deploy.SparkSubmit")
    java.kill()


def workers_killed(system: System, chance: Chance) -> None:
    """With local[2] the executor is a thread of the driver; only its Python workers can be killed."""
    workers = system.lander.children("pyspark.daemon")
    assert workers
    for worker in workers:
        worker.kill()


def forwarder_killed(system: System, chance: Chance) -> None:
    system.forwarder.kill()


def game_killed(system: System, chance: Chance) -> None:
    system.game.kill()


def hdfs_out_of_space(system: System, chance: Chance) -> None:
    """A space quota at the used size: neither data nor metadata can be written."""
    system.limit_space(system.used_space())
    begun = len(system.lander.log_text())
    until(lambda: "waiting, events stay in the topic" in system.lander.log_text()[begun:], "the lander is stuck", 240)
    time.sleep(chance.uniform(0, 5))  # the outage goes on
    system.limit_space(None)


def metastore_killed_in_a_commit(system: System, chance: Chance) -> None:
    system.await_commit()
    system.kill_server("metastore")


def driver_killed_in_a_commit(system: System, chance: Chance) -> None:
    system.await_commit()
    system.lander.kill()
    orphans = system.locks()
    print(f" [{len(orphans)} orphan lock(s)]", end="", flush=True)


def metastore_and_driver_killed_in_a_commit(system: System, chance: Chance) -> None:
    system.await_commit()
    pid = system.pid("metastore")
    system.lander.kill()
    os.kill(pid, signal.SIGKILL)


def two_drivers(system: System, chance: Chance) -> None:
    """The newer one takes over; the older one fails its next commit with the reason."""
    begun = len(system.lander.log_text())
    with system.second_lander():
        until(lambda: "another lander took over" in system.lander.log_text()[begun:], "the older one is fenced", 400)


def driver_frozen_while_another_takes_over(system: System, chance: Chance) -> None:
    """It wakes after the other one has landed; it commits nothing more, at whatever point it was frozen."""
    begun = len(system.lander.log_text())
    frozen = [psutil.Process(system.lander.process.pid), *system.lander.children()]
    for process in frozen:
        process.suspend()
    with system.second_lander():
        at = time.time()
        time.sleep(1)  # events keep coming
        system.await_exact(at, "landed by the second one")
        for process in frozen:
            process.resume()
        until(lambda: "another lander took over" in system.lander.log_text()[begun:], "the older one is fenced", 400)


FAULTS = (
    kafka_killed, namenode_killed, datanode_killed, metastore_killed, presto_killed, driver_killed, workers_killed,
    forwarder_killed, game_killed, hdfs_out_of_space,
)  # fmt: skip
"""Each server and each part of questlog fails once: about three minutes."""
LONG_FAULTS = (
    drivers_java_killed, metastore_killed_in_a_commit, driver_killed_in_a_commit,
    metastore_and_driver_killed_in_a_commit, two_drivers, driver_frozen_while_another_takes_over,
    kafka_frozen_for_30_seconds,
)  # fmt: skip
"""About five more minutes. test_fence.py and test_spark_lander.py stop a commit at each of its steps."""
ALL = [*FAULTS, *(pytest.param(fault, marks=pytest.mark.full) for fault in LONG_FAULTS)]


@pytest.mark.timeout(900 * ROUNDS)
@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.__name__)
def test_nothing_is_lost_or_duplicated(system: System, fault: object) -> None:
    chance = random.Random(f"{SEED}-{fault.__name__}")  # type: ignore[attr-defined]
    for number in range(ROUNDS):
        begun = time.time()
        time.sleep(chance.uniform(0, 3))  # a random moment, at any step of a batch
        at = time.time()
        fault(system, chance)  # type: ignore[operator]
        lasted = time.time() - at
        time.sleep(1)  # events keep coming
        seconds = system.await_exact(begun, fault.__name__)  # type: ignore[attr-defined]
        system.await_servers()
        print(
            f" round {number + 1}: lasted {lasted:.1f} s, complete {seconds + 1:.1f} s later;"
            f" {len(system.players.acknowledged(begun))} acknowledged meanwhile",
            flush=True,
        )


def test_presto_eventually_counts_every_acknowledged_event_once(system: System) -> None:
    seconds = system.await_exact(0, "the whole drill")
    acknowledged, took = system.players.acknowledged(), time.time() - system.began
    print(
        f"\n{len(acknowledged)} acknowledged, {len(acknowledged) / took:.0f} a second; complete {seconds:.1f} s later"
    )
    assert len(acknowledged) > took * 20
