"""The Metastore's locks on our tables that a dead lander left."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from questlog.land.spark.tables import CATALOG

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def release_locks(spark: SparkSession, namespaces: Collection[str]) -> int:
    """Release the locks on tables of *namespaces* that this machine's dead landers left; return how many.

    Call it with the machine's lock held: whoever took them then is dead. Without it the next commit
    would wait until the Metastore times them out.
    """
    jvm: Any = spark._jvm
    hive = jvm.org.apache.hadoop.hive
    configuration = hive.conf.HiveConf()
    configuration.set("hive.metastore.uris", spark.conf.get(f"spark.sql.catalog.{CATALOG}.uri"))
    client = hive.metastore.HiveMetaStoreClient(configuration)
    host, released = jvm.java.net.InetAddress.getLocalHost().getHostName(), 0
    try:
        for lock in client.showLocks(hive.metastore.api.ShowLocksRequest()).getLocks():
            if lock.getDbname() in namespaces and lock.getHostname() == host:
                client.unlock(lock.getLockid())
                released += 1
    finally:
        client.close()
    return released
