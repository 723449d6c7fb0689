"""The Metastore's locks on our tables that a dead lander left, or a Metastore that died under our own commit."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from typing import TYPE_CHECKING, Any

from questlog.land.spark.catalog import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SILENT_SECONDS = 12.0
"""How long a lock shows no sign of life until its holder counts as dead; a commit that lives shows one every 8 s."""


def release_locks(spark: SparkSession, namespaces: Collection[str]) -> int:
    """Release the locks on tables of *namespaces* that landers of this machine left; return how many.

    Call it when no commit of ours is under way. Without it the next commit would wait until the Metastore
    times them out, 300 s as it comes. A lock whose holder lives is left to it, whoever that is. A REST
    catalog has no locks.
    """
    if spark.conf.get(f"spark.sql.catalog.{CATALOG}.type") == "rest":
        return 0
    jvm: Any = spark._jvm
    hive = jvm.org.apache.hadoop.hive
    configuration = hive.conf.HiveConf()
    configuration.set("hive.metastore.uris", spark.conf.get(f"spark.sql.catalog.{CATALOG}.uri"))
    host = jvm.java.net.InetAddress.getLocalHost().getHostName()

    def held() -> dict[int, int]:
        """Return the time of the last sign of life of each lock."""
        locks = client.showLocks(hive.metastore.api.ShowLocksRequest()).getLocks()
        ours = [lock for lock in locks if lock.getDbname() in namespaces and lock.getHostname() == host]
        return {lock.getLockid(): lock.getLastheartbeat() for lock in ours}

    with closing(hive.metastore.HiveMetaStoreClient(configuration)) as client:
        found = held()
        deadline = time.monotonic() + SILENT_SECONDS
        while found and time.monotonic() < deadline:
            time.sleep(0.5)
            now = held()
            found = {number: beat for number, beat in found.items() if now.get(number) == beat}
        for number in found:
            client.unlock(number)
        return len(found)
