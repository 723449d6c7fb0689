"""Two landers: the older one, stopped at any point, commits nothing after the newer one has begun."""

# ruff: noqa: F401, F811 -- fixtures of the other module
from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_spark_lander import GUILD, Game, game, spark
from questlog.errors import LanderReplaced
from questlog.land.spark.commits import release_locks
from questlog.land.spark.lander import SparkLander


def apart(work: Callable[[], object]) -> None:
    """Run *work* to its end in its own thread, as another process would."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(200)
    assert not thread.is_alive()
    assert failed == []


def stopped_before(lander: SparkLander, number: int, meanwhile: Callable[[], object]) -> None:
    """Run *meanwhile* just before that commit of the lander, after all of its own checks."""
    append, count = lander.catalog.commits.append, iter(range(10**6))
    lock = threading.Lock()

    def stopped(*arguments: Any) -> None:
        with lock:
            if next(count) == number:
                apart(meanwhile)
        append(*arguments)

    lander.catalog.commits.append = stopped  # type: ignore[method-assign]


@pytest.mark.parametrize("commit", [0, 1, 2])
def test_a_lander_stopped_between_its_check_and_its_commit_commits_nothing(game: Game, commit: int) -> None:
    """Before its first table, its second, and the checkpoint."""
    with game.lander("one") as old:
        old.drain()
        game.send(GUILD, b'{"event_type": "purchase_sword"}')
        game.forward()
        with game.lander("two") as new:
            stopped_before(old, commit, new.drain)
            with pytest.raises(LanderReplaced, match="another lander took over"):
                old.drain()
            game.send(GUILD)
            game.forward()
            assert new.drain().records == 1
    assert len(game.ids()) == len(set(game.ids())) == 3


def test_two_landers_that_start_at_the_same_moment_get_different_epochs(game: Game) -> None:
    with game.lander("one") as old, game.lander("two") as new:
        old.drain()
        stopped_before(old, 10**6, lambda: None)
        old._began = False
        checkpoint, again = old.state.checkpoint, []

        def late() -> Any:
            read = checkpoint()
            if not again:  # after this one has read the checkpoint and before it claims, the other one claims
                again.append(apart(lambda: new.drain()))
            return read

        old.state.checkpoint = late  # type: ignore[method-assign]
        old.drain()
        assert old.catalog.epoch == new.catalog.epoch + 1


def metastore(game: Game) -> Any:
    jvm: Any = game.spark._jvm
    configuration = jvm.org.apache.hadoop.hive.conf.HiveConf()
    configuration.set("hive.metastore.uris", game.settings["metastore"])
    return jvm.org.apache.hadoop.hive.metastore.HiveMetaStoreClient(configuration)


def lock_as_a_commit_does(game: Game, client: Any) -> int:
    """Take the lock that a commit to `join_guild` takes."""
    api = game.spark._jvm.org.apache.hadoop.hive.metastore.api
    part = api.LockComponent(api.LockType.EXCLUSIVE, api.LockLevel.TABLE, game.name)
    part.setTablename("join_guild")
    host = game.spark._jvm.java.net.InetAddress.getLocalHost().getHostName()
    answer = client.lock(api.LockRequest([part], "somebody", host))
    assert answer.getState().toString() == "ACQUIRED"
    return int(answer.getLockid())


def test_a_dead_landers_lock_is_released_and_a_live_ones_is_not(game: Game) -> None:
    game.send(GUILD)
    game.forward()
    game.land()
    client, stop = metastore(game), threading.Event()
    number, beats = lock_as_a_commit_does(game, client), metastore(game)

    def live() -> None:
        while not stop.wait(1):
            beats.heartbeat(0, number)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        assert release_locks(game.spark, (game.name,)) == 0
    finally:
        stop.set()
        thread.join()
    begun = time.monotonic()
    game.send(GUILD)
    game.forward()
    assert game.land().records == 1
    print(f"healed {time.monotonic() - begun:.1f} s after its holder died")
    request = game.spark._jvm.org.apache.hadoop.hive.metastore.api.ShowLocksRequest()
    assert [lock for lock in client.showLocks(request).getLocks() if lock.getDbname() == game.name] == []
