"""Landing on a standalone Spark master: workers need no questlog, and processes that die are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.cluster.spark_options import QUICK, SPARK_LINES
from support.waiting import until

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from questlog.errors import QueryError
from questlog.log.kafka.spool import Spool
from questlog.log.kafka.topic import create_topic
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.record import encode_record
from questlog.stack import Stack

PLAN = '[game]\nname = "swords"\n[events.join_guild.fields]\nguild = "string"\n'
GUILD = b'{"event_type": "join_guild", "guild": "wolves"}'
LIBRARIES = ("msgspec", "numpy", "numpy.libs", "pyarrow", "pyarrow.libs", "uuid_utils")
"""The packages that a worker needs."""
_numbers = iter(range(10**6))


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A master and a worker alongside the shared servers, or those of the stack in the folder QUESTLOG_SPARK_STACK."""
    if "QUESTLOG_SPARK_STACK" in os.environ:
        yield Stack(os.environ["QUESTLOG_SPARK_STACK"])
        return
    with Stack(tmp_path_factory.mktemp("spark"), ports="free", only=["spark", "spark-worker"]) as running:
        yield running


class Game:
    """A project that lands on a standalone master."""

    def __init__(self, folder: Path, stack: Stack, spark: Stack) -> None:
        self.folder, self.name = folder, f"standalone_{os.getpid()}_{next(_numbers)}"
        (folder / "plan.toml").write_text(PLAN)
        at = stack.addresses
        (folder / "questlog.toml").write_text(
            f'profile = "cluster"\ntopic = "{self.name}"\nnamespace = "{self.name}"\nmetastore = "{at.metastore}"\n'
            f'warehouse = "{at.warehouse}"\nspark_master = "{spark.addresses.spark}"\nland_seconds = 0.5\n'
            f'[kafka]\nbootstrap.servers = "{at.kafka}"\n[presto]\nurl = "{at.presto}"\n'
            f'[spark]\n{SPARK_LINES}\n"spark.pyspark.python" = "{bare_python(folder)}"\n'
            f'"spark.executor.extraJavaOptions" = "{QUICK}"\n'
        )
        create_topic({"bootstrap.servers": at.kafka}, self.name, partitions=2, replication=1, retention_hours=1)
        pipeline = open_pipeline(folder)
        assert isinstance(pipeline, ClusterPipeline)
        self.pipeline, self.sent = pipeline, 0

    def send(self, count: int) -> None:
        """Log *count* events, and forward them."""
        ids = [f"e{next(_numbers)}" for _ in range(count)]
        self.pipeline.log.append([encode_record(GUILD, id=id_, received_ms=1_795_000_000_000) for id_ in ids])
        self.sent += count
        with Spool(self.pipeline.project.data, self.pipeline.project.log_folder) as spool:
            self.pipeline.forwarder(spool).drain(threading.Event())

    def landed(self) -> tuple[int, int]:
        """Return the number of rows in Presto, and of different ids."""
        try:
            (row,) = self.pipeline.sql("select count(*), count(distinct event_id) from join_guild").rows()
        except QueryError:  # before the first batch there is no table
            return (0, 0)
        return (row[0], row[1])


@pytest.fixture
def game(tmp_path: Path, stack: Stack, spark: Stack) -> Iterator[Game]:
    game = Game(tmp_path, stack, spark)
    yield game
    game.pipeline.log.close()  # type: ignore[attr-defined]


def bare_python(folder: Path) -> Path:
    """Return a Python that has a worker's packages, but not questlog."""
    libraries = folder / "libraries"
    libraries.mkdir()
    installed = Path(sysconfig.get_paths()["platlib"])
    for name in LIBRARIES:
        if (installed / name).exists():
            (libraries / name).symlink_to(installed / name)
    python = folder / "python"
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{libraries}" exec "{base}" -s "$@"\n')
    python.chmod(0o755)
    assert subprocess.run([python, "-c", "import questlog"], capture_output=True).returncode == 1
    return python


def executors(spark: Stack) -> list[psutil.Process]:
    """Return the processes that run tasks for the worker."""
    (worker,) = [each for each in spark.status() if each.name == "spark-worker"]
    children = psutil.Process(worker.pid).children(recursive=True)
    return [each for each in children if "CoarseGrainedExecutorBackend" in " ".join(each.cmdline())]


@pytest.mark.full
@pytest.mark.timeout(3000)
def test_every_event_lands_once_although_executor_worker_and_master_are_killed(game: Game, spark: Stack) -> None:
    game.send(5)
    log = game.folder / "up.log"
    with log.open("wb") as output:
        lander = subprocess.Popen(
            [sys.executable, "-m", "questlog", "-C", str(game.folder), "up", "--only", "lander"],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: game.landed() == (5, 5), "the first events have landed", 600)
        for name in ("executor", "spark-worker", "spark", "executor"):
            if name == "executor":
                (victim,) = [each.pid for each in executors(spark)]
            else:
                (victim,) = [each.pid for each in spark.status() if each.name == name]
            os.kill(victim, signal.SIGKILL)
            game.send(5)
            until(lambda: game.landed() == (game.sent, game.sent), "everything has landed", 600)
        assert lander.poll() is None, log.read_text()
    finally:
        lander.send_signal(signal.SIGTERM)
        try:
            assert lander.wait(90) == 0
        finally:
            if lander.poll() is None:
                os.killpg(lander.pid, signal.SIGKILL)
    assert game.landed() == (25, 25)


@pytest.mark.timeout(2000)
def test_plain_spark_submit_lands_with_the_script_in_the_package(game: Game, spark: Stack) -> None:
    game.send(7)

    def printed(what: str) -> str:
        words = [sys.executable, "-m", "questlog", "land", "--print", what]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    bin_ = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}  # as in an activated environment

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, timeout=900, env=environment)

    submit = [str(bin_ / "spark-submit"), "--master", spark.addresses.spark]
    submit += ["--conf", "spark.driver.memory=1g", "--conf", "spark.cores.max=1", "--driver-java-options", QUICK]
    job = [printed("job"), "-C", str(game.folder), "--once"]
    refused = run(*submit, *job)  # Spark sends all output of Python to its standard output
    assert (refused.returncode, "spark-submit needs the jars" in refused.stdout) == (1, True), refused
    ran = run(*submit, "--jars", printed("jars"), *job)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["landed 7 records: join_guild 7"]), ran
    assert game.landed() == (7, 7)
