"""The servers, each described once: what it is made of, how it is prepared, started and asked whether it works."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from questlog.stack import health
from questlog.stack.fetch import fetched
from questlog.stack.place import Place, find_java, find_trino_java
from questlog.stack.spark import master_words, spark_environment, spark_home, worker_words

_OPEN = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.io", "java.lang", "java.lang.ref", "java.lang.reflect", "java.net", "java.nio", "java.security",
        "java.text", "java.util", "java.util.concurrent", "java.util.concurrent.atomic", "java.util.regex",
        "javax.security.auth", "javax.security.auth.login", "jdk.internal.ref", "sun.net.util", "sun.nio.ch",
    )
]  # fmt: skip
_OPEN_TO_PRESTO = [
    "--add-opens=java.management/java.lang.management=ALL-UNNAMED",
    "--add-opens=jdk.management/com.sun.management.internal=ALL-UNNAMED",
    "--add-exports=java.base/sun.security.action=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
]
_FRUGAL = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]
"""On two cores the first compiler alone starts in half the time and answers small queries sooner."""


@dataclass(frozen=True, slots=True)
class Server:
    """One process of the stack. It is healthy when `check` returns; `check` raises with what is wrong."""

    name: str
    title: str
    part: str
    ports: tuple[str, ...]
    """Names of ports it listens on; its clients use the first."""
    command: Callable[[Place], list[str]]
    check: Callable[[Place], str]
    prepare: Mapping[str, Callable[[Place], list[str]]] = field(default_factory=dict)
    """Folder below the data folder -> the command that makes it; run once, before the first start."""
    needs: tuple[str, ...] = ()
    """Servers that are healthy before this one starts."""
    environment: Callable[[Place], Mapping[str, str]] = lambda place: {}
    option: str = ""
    """Which option of `up` asks for it; "" starts always."""
    requires: Callable[[], object] = find_java
    """Raises `NotInstalled` for what a fetch cannot bring."""
    stop_seconds: float = 20.0


def _java(place: Place, heap: str, *options: str, java: Path | None = None) -> list[str]:
    # the folder among the arguments tells this stack's processes from everybody else's
    return [str(java or place.java), f"-Xmx{heap}", *_FRUGAL, f"-Dquestlog.stack={place.folder}", *options]


def _class_path(*entries: Path | str) -> list[str]:
    return ["-cp", ":".join(str(entry) for entry in entries)]


def kafka_class_path(place: Place) -> list[str]:
    """Return the options that give Java Kafka's classes and configuration."""
    return _class_path(place.etc / "kafka", f"{fetched('kafka')}/*")


def hadoop_class_path(place: Place) -> list[str]:
    """Return the options that give Java Hadoop's classes and configuration."""
    return _class_path(place.etc / "hadoop", place.etc / "hadoop-web", f"{fetched('hdfs')}/*")


def _metastore_class_path(place: Place) -> list[str]:
    folder = fetched("metastore")
    return _class_path(place.etc / "metastore", place.etc / "hadoop", f"{folder}/hive/lib/*", f"{folder}/*")


def _kafka(place: Place) -> list[str]:
    return [*_java(place, "512m"), *kafka_class_path(place), "kafka.Kafka", str(place.etc / "kafka/server.properties")]


def _format_kafka(place: Place) -> list[str]:
    cluster = uuid.uuid4().hex[:22]
    properties = str(place.etc / "kafka/server.properties")
    tool = [*_java(place, "128m"), *kafka_class_path(place), "kafka.tools.StorageTool"]
    return [*tool, "format", "--standalone", "--ignore-formatted", "-t", cluster, "-c", properties]


def _hadoop(place: Place, heap: str, main: str, *arguments: str) -> list[str]:
    for page in ("hdfs", "datanode", "static"):  # its jars lack the web pages, and it refuses to start without
        (place.etc / "hadoop-web" / "webapps" / page).mkdir(parents=True, exist_ok=True)
    return [*_java(place, heap, *_OPEN), *hadoop_class_path(place), f"org.apache.hadoop.{main}", *arguments]


def _namenode(place: Place) -> list[str]:
    return _hadoop(place, "256m", "hdfs.server.namenode.NameNode")


def _format_namenode(place: Place) -> list[str]:
    return [*_namenode(place), "-format", "-nonInteractive"]


def _datanode(place: Place) -> list[str]:
    return _hadoop(place, "256m", "hdfs.server.datanode.DataNode")


def _metastore(place: Place) -> list[str]:
    options = [
        "-XX:MaxMetaspaceSize=192m",
        f"-Dlog4j.configurationFile={place.etc}/metastore/metastore-log4j2.properties",
    ]
    java = [*_java(place, "384m", *_OPEN, *options, f"-Dderby.stream.error.file={place.logs}/derby.log")]
    main = "org.apache.hadoop.hive.metastore.HiveMetaStore"
    return [*java, *_metastore_class_path(place), main, "-p", str(place.ports["metastore"])]


def _metastore_home(place: Place) -> Mapping[str, str]:
    return {"METASTORE_HOME": f"{fetched('metastore')}/hive"}


def _create_schema(place: Place) -> list[str]:
    tool = [*_java(place, "256m", *_OPEN, f"-Dderby.stream.error.file={place.logs}/derby.log")]
    main = "org.apache.hadoop.hive.metastore.tools.MetastoreSchemaTool"
    return [*tool, *_metastore_class_path(place), main, "-dbType", "derby", "-initSchema"]


def _presto(place: Place) -> list[str]:
    folder = fetched("presto")
    options = ["-Djdk.attach.allowAttachSelf=true", *_engine(place, "presto", folder / "plugin")]
    java = _java(place, "1g", *_OPEN, *_OPEN_TO_PRESTO, *options)
    return [*java, *_class_path(f"{folder}/lib/*"), "com.facebook.presto.server.PrestoServer"]


def _trino(place: Place) -> list[str]:
    folder = fetched("trino") / "server"
    options = [
        "--add-modules=jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow", "-Djdk.attach.allowAttachSelf=true", "-XX:ReservedCodeCacheSize=256M",
        "-Djdk.nio.maxCachedBufferSize=2000000", f"-Dsecrets-plugins-dir={folder}/secrets-plugin",
    ]  # fmt: skip
    java = _java(place, "1g", *options, *_engine(place, "trino", folder / "plugin"), java=find_trino_java())
    return [*java, *_class_path(f"{folder}/lib/*"), "io.trino.server.TrinoServer"]


def _engine(place: Place, name: str, plugins: Path) -> list[str]:
    """Return what Presto and its cousin read from Java's properties."""
    etc = place.etc / name
    return [
        "-Dnode.environment=questlog", "-Dnode.id=questlog", "-Dnode.internal-address=127.0.0.1",
        f"-Dnode.data-dir={place.data}/{name}", f"-Dconfig={etc}/config.properties",
        f"-Dlog.levels-file={etc}/log.properties", f"-Dcatalog.config-dir={etc}/catalog", f"-Dplugin.dir={plugins}",
    ]  # fmt: skip


def _spark(place: Place) -> list[str]:
    return [*_java(place, "256m", *_OPEN), *master_words(place)]


def _spark_worker(place: Place) -> list[str]:
    return [*_java(place, "256m", *_OPEN), *worker_words(place)]


SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        Server(
            "kafka", "Apache Kafka", "kafka", ("kafka", "kafka_controller"), _kafka, health.kafka,
            {"kafka": _format_kafka},
        ),
        Server(
            "namenode", "HDFS NameNode", "hdfs", ("namenode", "namenode_http"), _namenode, health.namenode,
            {"namenode": _format_namenode},
        ),
        Server(
            "datanode", "HDFS DataNode", "hdfs", ("datanode", "datanode_http", "datanode_ipc"), _datanode,
            health.datanode, needs=("namenode",),
        ),
        Server(
            "metastore", "Hive Metastore", "metastore", ("metastore",), _metastore, health.metastore,
            {"metastore": _create_schema}, ("datanode",), _metastore_home,
        ),
        Server("presto", "Presto", "presto", ("presto",), _presto, health.presto),
        Server(
            "trino", "Trino", "trino", ("trino",), _trino, health.trino, needs=("metastore",), option="trino",
            requires=find_trino_java,
        ),
        Server(
            "spark", "Spark master", "spark", ("spark", "spark_ui"), _spark, health.spark,
            environment=spark_environment, option="spark", requires=spark_home,
        ),
        Server(
            "spark-worker", "Spark worker", "spark", ("spark_worker", "spark_worker_ui"), _spark_worker,
            health.spark_worker, needs=("spark",), environment=spark_environment, option="spark", requires=spark_home,
        ),
    )
}  # fmt: skip
"""In the order of starting; they stop in the opposite order."""
