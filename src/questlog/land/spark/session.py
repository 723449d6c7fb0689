"""The lander's Spark session: its jars, its catalog, and questlog itself as a zip file for the workers."""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import re
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from questlog.errors import NotInstalled, QuestlogError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CATALOG = "lake"
_NAME = f"spark.sql.catalog.{CATALOG}"

_SECRET = re.compile(r"(?i)secret|password|token|access[.]?key|keystore[.]key|jaas|credential$")
"""Keys whose values must not show in Spark's pages, its logs or the list of processes."""

_CLOSE = "spark.hadoop.dfs.client.block.write.locateFollowingBlock"
_CLOSING = {f"{_CLOSE}.initial.delay.ms": "5", f"{_CLOSE}.retries": "12"}
"""How long HDFS's client waits before it asks again whether a file is closed: 5, 10, 20 ms, … 20 s in all.

The default is 400 ms, 800 ms, …: every third file of a commit waited that long for a report that takes a few ms.
"""

_FIRST_COMPILER = "-XX:TieredStopAtLevel=1"
"""Java without its second compiler, which took 11 of the 25 CPU seconds of a start and had not earned them back after
2.5 million events: the events themselves are shaped in Python."""


def open_session(
    *, master: str, jars: Sequence[str], metastore: str, warehouse: str, options: Mapping[str, str]
) -> SparkSession:
    """Return a session whose catalog `lake` is at *metastore*; *options* override ours."""
    try:
        from pyspark import SparkConf, SparkContext, SparkFiles
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise NotInstalled("the cluster profile lands with Spark", hint="pip install 'questlog[cluster]'") from error
    # Workers on this machine use the Python that has questlog's libraries, not the first one on the PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings = {
        "spark.master": master,
        "spark.app.name": "questlog",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.scheduler.mode": "FAIR",  # table maintenance leaves the stream its share
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
        "spark.sql.timestampType": "TIMESTAMP_NTZ",
        **_CLOSING,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.redaction.regex": _SECRET.pattern,
        **catalog_options(metastore, warehouse),
        **({"spark.jars": ",".join(jars)} if jars else {}),
        **options,
    }
    master = settings["spark.master"]
    if master.startswith("local"):
        settings = {"spark.driver.extraJavaOptions": _FIRST_COMPILER, **settings}
    if master.startswith("local") or _is_loopback(master):
        settings = {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", **settings}
    if not master.startswith("local"):
        # A batch is one task: without a limit the lander would hold every core of the cluster, mostly idle.
        settings = {"spark.cores.max": "2", **settings}
    builder = SparkSession.builder
    for key, value in settings.items():
        builder = builder.config(key, value)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    with _own_interrupt_handler():
        # Every user of the machine can read Java's command line, so no secret goes into it.
        plain = {key: value for key, value in settings.items() if not _SECRET.search(key)}
        SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(list(plain.items())))
        spark = builder.getOrCreate()
    if not master.startswith("local"):
        # In Spark's own folder: executors that start later fetch it too, and Spark deletes it when it stops.
        spark.sparkContext.addPyFile(str(package_zip(Path(SparkFiles.getRootDirectory()))))
    return spark


def is_alive(spark: SparkSession) -> bool:
    """Return whether Spark still runs: its process can be killed, and it ends when its master is away for too long."""
    try:
        return not spark.sparkContext._jsc.sc().isStopped()
    except Exception:  # py4j raises many kinds for a process that is gone
        return False


def _is_loopback(master: str) -> bool:
    host = urlsplit(master).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@contextmanager
def _own_interrupt_handler() -> Iterator[None]:
    """Keep our handler of Ctrl-C: the one PySpark installs at its start cancels jobs in the middle of a commit."""
    ours = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, ours)


# -- the catalog -------------------------------------------------------------------------------------


def is_rest(metastore: str) -> bool:
    """Return whether *metastore* is an Iceberg REST catalog."""
    return metastore.startswith(("http://", "https://"))


def catalog_options(metastore: str, warehouse: str) -> dict[str, str]:
    """Return Spark's settings for the catalog `lake`: a Hive Metastore, or an Iceberg REST catalog."""
    if not is_rest(metastore) and not metastore.startswith("thrift://"):
        raise QuestlogError(
            f"metastore: {metastore!r} is not a valid address",
            hint="thrift://HOST:9083 is a Hive Metastore, https://… an Iceberg REST catalog",
        )
    options = {
        _NAME: "org.apache.iceberg.spark.SparkCatalog",
        f"{_NAME}.type": "rest" if is_rest(metastore) else "hive",
        f"{_NAME}.uri": metastore,
        f"{_NAME}.warehouse": warehouse,
        f"{_NAME}.cache-enabled": "false",  # commits of other processes must be visible at once
    }
    if not is_rest(metastore):
        options["spark.hadoop.iceberg.hive.lock-heartbeat-interval-ms"] = "8000"
    return options


# -- questlog for the workers ------------------------------------------------------------------------


def package_zip(folder: Path) -> Path:
    """Write this package to *folder* as a zip file and return its path; the name depends on the contents.

    Workers shape with the lander's own version then. They keep what they have imported: under a constant name they
    would go on with an older version.
    """
    root = Path(__file__).parents[2]
    files = sorted(path for path in root.rglob("*") if path.suffix in _PACKED and path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    target = folder / f"questlog-{digest.hexdigest()[:12]}.zip"
    if not target.exists():
        handle, draft = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, Path(root.name) / path.relative_to(root))
        os.replace(draft, target)
    return target


_PACKED = {".py", ".toml"}
