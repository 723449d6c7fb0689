"""Spark as installed by pip: its home, environment and options for the stack, and its standalone master and worker."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from questlog.errors import NotInstalled
from questlog.stack.fetch import fetched
from questlog.stack.layout import StackLayout

WORKER_CORES = max(4, os.cpu_count() or 1)
"""Slots rather than cores: even on the smallest machine, a lander and a job alongside it each get some."""
WORKER_MEMORY = "3g"
"""Limit for all executors together; an executor with 1g really uses about 400 MB."""


def spark_home() -> Path:
    """Return the folder of the installed pyspark package."""
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise NotInstalled("pyspark is not installed", hint="pip install 'questlog[spark]'")
    return Path(spec.origin).parent


def spark_environment(layout: StackLayout) -> dict[str, str]:
    """Return the environment variables for Spark."""
    return {
        "SPARK_HOME": str(spark_home()),
        "SPARK_SCALA_VERSION": "2.13",  # without it, a worker looks for the folders of a source build and fails
        "JAVA_HOME": str(layout.java.resolve().parent.parent),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "HADOOP_CONF_DIR": str(layout.etc / "hadoop"),
    }


def spark_options(layout: StackLayout) -> Mapping[str, str]:
    """Return Spark settings with the stack's catalog as `lake`, and UTC."""
    path = f"{fetched('spark')}/*"
    return {
        # here rather than in --jars, which copies 59 MB at each start
        "spark.driver.extraClassPath": path,
        "spark.executor.extraClassPath": path,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.hadoop.fs.defaultFS": layout.hdfs,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.lake": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.lake.type": "hive",
        "spark.sql.catalog.lake.uri": f"thrift://127.0.0.1:{layout.ports['metastore']}",
        "spark.sql.catalog.lake.warehouse": layout.warehouse,
        # a stream's batches run in their own session, and this one would keep its first view of a table
        "spark.sql.catalog.lake.cache-enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
    }


def master_words(layout: StackLayout) -> list[str]:
    """Return the Java options and arguments of a master.

    It keeps its applications and workers in a folder: a master that is killed recovers them at its next start, so that
    it can replace an executor that dies later.
    """
    options = [
        "-Dspark.deploy.recoveryMode=FILESYSTEM", f"-Dspark.deploy.recoveryDirectory={layout.data}/spark-master",
        "-Dspark.worker.timeout=30", *_class_path(),
    ]  # fmt: skip
    return [*options, "org.apache.spark.deploy.master.Master", *_address(layout, "spark", "spark_ui")]


def worker_words(layout: StackLayout) -> list[str]:
    """Return the Java options and arguments of a worker."""
    # delete the folders of finished applications: each holds a copy of the driver's jars
    options = [
        "-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.interval=600",
        "-Dspark.worker.cleanup.appDataTtl=3600", *_class_path(),
    ]  # fmt: skip
    arguments = ["--cores", str(WORKER_CORES), "--memory", WORKER_MEMORY, "--work-dir", f"{layout.data}/spark-work"]
    address = _address(layout, "spark_worker", "spark_worker_ui")
    return [*options, "org.apache.spark.deploy.worker.Worker", *address, *arguments, spark_master(layout)]


def spark_master(layout: StackLayout) -> str:
    """Return the master's address, in the form of `--master`."""
    return f"spark://127.0.0.1:{layout.ports['spark']}"


def _class_path() -> list[str]:
    return ["-cp", f"{spark_home()}/jars/*"]


def _address(layout: StackLayout, port: str, page: str) -> list[str]:
    return ["--host", "127.0.0.1", "--port", str(layout.ports[port]), "--webui-port", str(layout.ports[page])]
