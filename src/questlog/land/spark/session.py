"""The Spark session of the lander: its jars, its catalog, and itself for workers that have no questlog."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from questlog.errors import NotInstalled
from questlog.land.spark.catalog import catalog_options
from questlog.land.spark.ship import package_zip

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_HIDDEN = re.compile(r"(?i)secret|password|token|access[.]?key|keystore[.]key|jaas|credential$")
"""What a key is called whose value Spark's pages, its logs and the list of processes must not show."""

_CLOSE = "spark.hadoop.dfs.client.block.write.locateFollowingBlock"
_CLOSING = {f"{_CLOSE}.initial.delay.ms": "5", f"{_CLOSE}.retries": "12"}
"""How long HDFS's client waits before it asks again whether a file is closed: 5, 10, 20 ms, … 20 s in all.

By default it is 400 ms, 800 ms, …: every third file of a commit waited them, for a report that comes within a few.
"""

_QUICK_JAVA = "-XX:TieredStopAtLevel=1"
"""Java without its second compiler: that took 11 of 25 processor seconds of a start, and after 2.5 million events had
not earned them back, as the events themselves are shaped in Python."""


def open_session(
    *, master: str, jars: Sequence[str], metastore: str, warehouse: str, options: Mapping[str, str]
) -> SparkSession:
    """Return a session whose catalog `lake` is at *metastore*; *options* go over ours."""
    try:
        from pyspark import SparkConf, SparkContext, SparkFiles
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise NotInstalled("the cluster profile lands with Spark", hint="pip install 'questlog[cluster]'") from error
    # On this machine a worker is the Python that has questlog's libraries, not the first one on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.master": master,
        "spark.app.name": "questlog",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.scheduler.mode": "FAIR",  # upkeep's jobs leave the stream its share
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
        **_CLOSING,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.redaction.regex": _HIDDEN.pattern,
        **catalog_options(metastore, warehouse),
        **({"spark.jars": ",".join(jars)} if jars else {}),
        **options,
    }
    master = settings["spark.master"]
    if master.startswith("local"):
        settings = {"spark.driver.extraJavaOptions": _QUICK_JAVA, **settings}
    if master.startswith("local") or _is_loopback(master):
        settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", **settings}
    if not master.startswith("local"):
        # one batch is one task; without a limit the lander would hold every core of the cluster, idle
        settings = {"spark.cores.max": "2", **settings}
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    with _own_interrupt():
        # Java starts with what it must be told at its start: everybody on the machine sees its command line
        plain = {key: value for key, value in settings.items() if not _HIDDEN.search(key)}
        SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(list(plain.items())))
        spark = builder.getOrCreate()
    if not master.startswith("local"):
        # in Spark's own folder: executors that start later fetch it too, and it goes when Spark does
        spark.sparkContext.addPyFile(str(package_zip(Path(SparkFiles.getRootDirectory()))))
    return spark


def is_alive(spark: SparkSession) -> bool:
    """Return whether Spark still runs: its process can be killed, and a master that is gone too long ends it."""
    try:
        return not spark.sparkContext._jsc.sc().isStopped()
    except Exception:  # whatever comes of asking a process that is gone
        return False


def _is_loopback(master: str) -> bool:
    host = urlsplit(master).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keep what Ctrl-C does here: PySpark's own handler, set when it starts, ends jobs in the middle of a commit."""
    ours = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, ours)
