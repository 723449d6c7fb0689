"""Which catalog holds the tables: the scheme of the setting `metastore` says."""

from __future__ import annotations

from questlog.errors import QuestlogError

CATALOG = "lake"
_NAME = f"spark.sql.catalog.{CATALOG}"


def is_rest(metastore: str) -> bool:
    """Return whether *metastore* is an Iceberg REST catalog."""
    return metastore.startswith(("http://", "https://"))


def catalog_options(metastore: str, warehouse: str) -> dict[str, str]:
    """Return Spark's settings for the catalog `lake`: a Hive Metastore, or an Iceberg REST catalog."""
    if not is_rest(metastore) and not metastore.startswith("thrift://"):
        raise QuestlogError(
            f"metastore: {metastore!r} is no address",
            hint="thrift://HOST:9083 is a Hive Metastore, https://… an Iceberg REST catalog",
        )
    found = {
        _NAME: "org.apache.iceberg.spark.SparkCatalog",
        f"{_NAME}.type": "rest" if is_rest(metastore) else "hive",
        f"{_NAME}.uri": metastore,
        f"{_NAME}.warehouse": warehouse,
        f"{_NAME}.cache-enabled": "false",  # another process's commit must be seen at once
    }
    if not is_rest(metastore):
        found["spark.hadoop.iceberg.hive.lock-heartbeat-interval-ms"] = "8000"
    return found
