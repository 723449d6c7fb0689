"""The tools an analyst knows, pointed at the stack: Kafka's, Hadoop's, Spark's, Presto's own command lines."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from questlog.errors import NotInstalled, QuestlogError
from questlog.stack.fetch import fetched
from questlog.stack.kcat import GET_KCAT
from questlog.stack.place import Place
from questlog.stack.servers import hadoop_class_path, kafka_class_path

Command = tuple[list[str], dict[str, str]]
"""What to run, and what to add to its environment."""

_KAFKA = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
}
_HADOOP = {"fs": "fs.FsShell", "dfs": "fs.FsShell", "dfsadmin": "hdfs.tools.DFSAdmin", "fsck": "hdfs.tools.DFSck"}
_QUICK = ["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def build(place: Place, tool: str, arguments: Sequence[str], schema: str) -> Command:
    """Return the command that runs *tool* against the stack in *place*."""
    if tool in _KAFKA:
        return _kafka(place, _KAFKA[tool], arguments), {}
    if tool not in _OTHERS:
        known = ", ".join(sorted({*_KAFKA, *_OTHERS}))
        raise QuestlogError(f"there is no tool {tool}", hint=f"tools: {known}")
    return _OTHERS[tool](place, arguments, schema)


def _kafka(place: Place, main: str, arguments: Sequence[str]) -> list[str]:
    server = [] if "--bootstrap-server" in arguments else ["--bootstrap-server", f"127.0.0.1:{place.ports['kafka']}"]
    quiet = f"-Dlog4j2.configurationFile={place.etc}/kafka/tools-log4j2.properties"
    return [str(place.java), *_QUICK, quiet, *kafka_class_path(place), main, *server, *arguments]


def _kcat(place: Place, arguments: Sequence[str], schema: str) -> Command:
    server = [] if "-b" in arguments else ["-b", f"127.0.0.1:{place.ports['kafka']}"]
    found = shutil.which("kcat") or shutil.which("kafkacat")
    if found is not None:
        return [found, *server, *arguments], {}
    print(f"kcat is not installed, questlog's own reads its everyday flags; the original: {GET_KCAT}", file=sys.stderr)
    return [sys.executable, "-m", "questlog.stack.kcat", *server, *arguments], {}


def _hadoop(place: Place, arguments: Sequence[str], schema: str) -> Command:
    main = _HADOOP.get(arguments[0]) if arguments else None
    if main is None:
        raise QuestlogError("hadoop wants one of " + ", ".join(_HADOOP), hint="questlog stack exec hadoop fs -ls /")
    quiet = f"-Dlog4j.configuration=file:{place.etc}/hadoop/tools-log4j.properties"
    java = [str(place.java), *_QUICK, quiet, *hadoop_class_path(place)]
    return [*java, f"org.apache.hadoop.{main}", *arguments[1:]], {}


def _hdfs(place: Place, arguments: Sequence[str], schema: str) -> Command:
    return _hadoop(place, arguments, schema)


def _presto(place: Place, arguments: Sequence[str], schema: str) -> Command:
    told = {word.partition("=")[0] for word in arguments}
    url = f"http://127.0.0.1:{place.ports['presto']}"
    usual = {"--server": url, "--catalog": "iceberg", "--schema": schema, "--user": "questlog"}
    options = [word for name, value in usual.items() if name not in told for word in (name, value)]
    jar = str(fetched("presto") / "presto-cli.jar")
    return [str(place.java), *_QUICK, "-Duser.timezone=UTC", "-jar", jar, *options, *arguments], {}


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


def _spark(tool: str) -> Callable[[Place, Sequence[str], str], Command]:
    def build(place: Place, arguments: Sequence[str], schema: str) -> Command:
        home = spark_home()
        options = [word for name, value in spark_options(place).items() for word in ("--conf", f"{name}={value}")]
        return [str(home / "bin" / tool), *options, *arguments], spark_environment(place)

    return build


_OTHERS: Mapping[str, Callable[[Place, Sequence[str], str], Command]] = {
    "hadoop": _hadoop,
    "hdfs": _hdfs,
    "kcat": _kcat,
    "presto": _presto,
    "pyspark": _spark("pyspark"),
    "spark-sql": _spark("spark-sql"),
    "spark-submit": _spark("spark-submit"),
}
TOOLS = tuple(sorted({*_KAFKA, *_OTHERS}))
