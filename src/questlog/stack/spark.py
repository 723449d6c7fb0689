"""Spark as pip lays it: its home, its environment, its options for the stack, its standalone master and worker."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from questlog.errors import NotInstalled
from questlog.stack.fetch import fetched
from questlog.stack.place import Place

WORKER_CORES = max(4, os.cpu_count() or 1)
"""Slots rather than cores: a lander and a job beside it each get some on the smallest machine."""
WORKER_MEMORY = "3g"
"""What its executors may ask for together; an executor that is given 1g really holds about 400 MB."""


def spark_home() -> Path:
    """Return where pip laid Spark."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise NotInstalled("pyspark is not installed", hint="pip install 'questlog[spark]'")
    return Path(found.origin).parent


def spark_environment(place: Place) -> dict[str, str]:
    """Return what Spark reads from the environment."""
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_SCALA_VERSION": "2.13",  # a worker that must guess it looks for the folders of a build, and fails
        "JAVA_HOME": str(place.java.resolve().parent.parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "HADOOP_CONF_DIR": str(place.etc / "hadoop"),
    }


def spark_options(place: Place) -> Mapping[str, str]:
    """Return the settings that give a Spark session the stack's catalog as `lake`, and UTC."""
    path = f"{fetched('spark')}/*"
    return {
        # named here rather than in --jars, which copies 59 MB at each start
        "spark.driver.extraClassPath": path,
        "spark.executor.extraClassPath": path,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.hadoop.fs.defaultFS": place.hdfs,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "hive",
        "spark.sql.catalog.lake.uri": f"thrift://127.0.0.1:{place.ports['metastore']}",
        "spark.sql.catalog.lake.warehouse": place.warehouse,
        # a stream's batches run in a session of their own: this one would go on reading what it saw first
        "spark.sql.catalog.lake.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
    }


def master_words(place: Place) -> list[str]:
    """Return Java's options and arguments that make it a master.

    What it knows of applications and workers is kept in a folder: a master that is killed finds them again, so
    that an executor that dies later is replaced.
    """
    options = [
        "-Dspark.deploy.recoveryMode=FILESYSTEM", f"-Dspark.deploy.recoveryDirectory={place.data}/spark-master",
        "-Dspark.worker.timeout=30", *_class_path(),
    ]  # fmt: skip
    return [*options, "org.apache.spark.deploy.master.Master", *_address(place, "spark", "spark_ui")]


def worker_words(place: Place) -> list[str]:
    """Return Java's options and arguments that make it a worker."""
    # the folders of applications that ended are swept: each holds a copy of the driver's jars
    options = [
        "-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.interval=600",
        "-Dspark.worker.cleanup.appDataTtl=3600", *_class_path(),
    ]  # fmt: skip
    arguments = ["--cores", str(WORKER_CORES), "--memory", WORKER_MEMORY, "--work-dir", f"{place.data}/spark-work"]
    address = _address(place, "spark_worker", "spark_worker_ui")
    return [*options, "org.apache.spark.deploy.worker.Worker", *address, *arguments, spark_master(place)]


def spark_master(place: Place) -> str:
    """Return the master's address, as `--master` takes it."""
    return f"spark://127.0.0.1:{place.ports['spark']}"


def _class_path() -> list[str]:
    return ["-cp", f"{spark_home()}/jars/*"]


def _address(place: Place, port: str, page: str) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(place.ports[port]), "--webui-port", str(place.ports[page])]
