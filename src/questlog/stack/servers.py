"""The servers, each described once: its parts, preparation, start command and health check."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from questlog.stack import health
from questlog.stack.fetch import fetched
from questlog.stack.layout import StackLayout, find_java, find_trino_java
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
"""On two cores, the first compiler alone halves the start time and answers small queries sooner."""


@dataclass(frozen=True, slots=True)
class Server:
    """One process of the stack. It is healthy if `check` returns; otherwise `check` raises the cause."""

    name: str
    title: str
    part: str
    ports: tuple[str, ...]
    """Names of the ports it listens on; clients use the first."""
    command: Callable[[StackLayout], list[str]]
    check: Callable[[StackLayout], str]
    prepare: Mapping[str, Callable[[StackLayout], list[str]]] = field(default_factory=dict)
    """Folder below the data folder -> the command that creates it, which runs once, before the first start."""
    needs: tuple[str, ...] = ()
    """Servers that must be healthy before this one starts."""
    environment: Callable[[StackLayout], Mapping[str, str]] = lambda layout: {}
    option: str = ""
    """The option of `up` that starts it; "" means that it always starts."""
    requires: Callable[[], object] = find_java
    """Raises `NotInstalled` if something is missing that cannot be fetched."""
    stop_seconds: float = 20.0


def _java(layout: StackLayout, heap: str, *options: str, java: Path | None = None) -> list[str]:
    # the folder among the arguments distinguishes this stack's processes from all others
    return [str(java or layout.java), f"-Xmx{heap}", *_FRUGAL, f"-Dquestlog.stack={layout.folder}", *options]


def _class_path(*entries: Path | str) -> list[str]:
    return ["-cp", ":".join(str(entry) for entry in entries)]


def kafka_class_path(layout: StackLayout) -> list[str]:
    """Return the Java options for Kafka's classes and configuration."""
    return _class_path(layout.etc / "kafka", f"{fetched('kafka')}/*")


def hadoop_class_path(layout: StackLayout) -> list[str]:
    """Return the Java options for Hadoop's classes and configuration."""
    return _class_path(layout.etc / "hadoop", layout.etc / "hadoop-web", f"{fetched('hdfs')}/*")


def _metastore_class_path(layout: StackLayout) -> list[str]:
    folder = fetched("metastore")
    return _class_path(layout.etc / "metastore", layout.etc / "hadoop", f"{folder}/hive/lib/*", f"{folder}/*")


def _kafka(layout: StackLayout) -> list[str]:
    return [
        *_java(layout, "512m"),
        *kafka_class_path(layout),
        "kafka.Kafka",
        str(layout.etc / "kafka/server.properties"),
    ]


def _format_kafka(layout: StackLayout) -> list[str]:
    cluster = uuid.uuid4().hex[:22]
    properties = str(layout.etc / "kafka/server.properties")
    tool = [*_java(layout, "128m"), *kafka_class_path(layout), "kafka.tools.StorageTool"]
    return [*tool, "format", "--standalone", "--ignore-formatted", "-t", cluster, "-c", properties]


def _hadoop(layout: StackLayout, heap: str, main: str, *arguments: str) -> list[str]:
    for page in ("hdfs", "datanode", "static"):  # Hadoop refuses to start without its web pages, which its jars lack
        (layout.etc / "hadoop-web" / "webapps" / page).mkdir(parents=True, exist_ok=True)
    return [*_java(layout, heap, *_OPEN), *hadoop_class_path(layout), f"org.apache.hadoop.{main}", *arguments]


def _namenode(layout: StackLayout) -> list[str]:
    return _hadoop(layout, "256m", "hdfs.server.namenode.NameNode")


def _format_namenode(layout: StackLayout) -> list[str]:
    return [*_namenode(layout), "-format", "-nonInteractive"]


def _datanode(layout: StackLayout) -> list[str]:
    return _hadoop(layout, "256m", "hdfs.server.datanode.DataNode")


def _metastore(layout: StackLayout) -> list[str]:
    options = [
        "-XX:MaxMetaspaceSize=192m",
        f"-Dlog4j.configurationFile={layout.etc}/metastore/metastore-log4j2.properties",
    ]
    java = [*_java(layout, "384m", *_OPEN, *options, f"-Dderby.stream.error.file={layout.logs}/derby.log")]
    main = "org.apache.hadoop.hive.metastore.HiveMetaStore"
    return [*java, *_metastore_class_path(layout), main, "-p", str(layout.ports["metastore"])]


def _metastore_home(layout: StackLayout) -> Mapping[str, str]:
    return {"METASTORE_HOME": f"{fetched('metastore')}/hive"}


def _create_schema(layout: StackLayout) -> list[str]:
    tool = [*_java(layout, "256m", *_OPEN, f"-Dderby.stream.error.file={layout.logs}/derby.log")]
    main = "org.apache.hadoop.hive.metastore.tools.MetastoreSchemaTool"
    return [*tool, *_metastore_class_path(layout), main, "-dbType", "derby", "-initSchema"]


def _presto(layout: StackLayout) -> list[str]:
    folder = fetched("presto")
    options = ["-Djdk.attach.allowAttachSelf=true", *_engine(layout, "presto", folder / "plugin")]
    java = _java(layout, "1g", *_OPEN, *_OPEN_TO_PRESTO, *options)
    return [*java, *_class_path(f"{folder}/lib/*"), "com.facebook.presto.server.PrestoServer"]


def _trino(layout: StackLayout) -> list[str]:
    folder = fetched("trino") / "server"
    options = [
        "--add-modules=jdk.incubator.vector", "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow", "-Djdk.attach.allowAttachSelf=true", "-XX:ReservedCodeCacheSize=256M",
        "-Djdk.nio.maxCachedBufferSize=2000000", f"-Dsecrets-plugins-dir={folder}/secrets-plugin",
    ]  # fmt: skip
    java = _java(layout, "1g", *options, *_engine(layout, "trino", folder / "plugin"), java=find_trino_java())
    return [*java, *_class_path(f"{folder}/lib/*"), "io.trino.server.TrinoServer"]


def _engine(layout: StackLayout, name: str, plugins: Path) -> list[str]:
    """Return the Java properties that Presto and Trino read."""
    etc = layout.etc / name
    return [
        "-Dnode.environment=questlog", "-Dnode.id=questlog", "-Dnode.internal-address=127.0.0.1",
        f"-Dnode.data-dir={layout.data}/{name}", f"-Dconfig={etc}/config.properties",
        f"-Dlog.levels-file={etc}/log.properties", f"-Dcatalog.config-dir={etc}/catalog", f"-Dplugin.dir={plugins}",
    ]  # fmt: skip


def _spark(layout: StackLayout) -> list[str]:
    return [*_java(layout, "256m", *_OPEN), *master_words(layout)]


def _spark_worker(layout: StackLayout) -> list[str]:
    return [*_java(layout, "256m", *_OPEN), *worker_words(layout)]


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
"""In the order in which they start; they stop in reverse order."""
