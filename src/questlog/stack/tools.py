"""Run the command-line tools of Kafka, Hadoop, Spark, Presto and Trino against the stack."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence

from questlog.errors import NotInstalled, QuestlogError
from questlog.stack.fetch import fetched
from questlog.stack.layout import StackLayout, find_trino_java
from questlog.stack.servers import hadoop_class_path, kafka_class_path
from questlog.stack.spark import spark_environment, spark_home, spark_options

Command = tuple[list[str], dict[str, str]]
"""A command, and the variables to add to its environment."""

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


def build(layout: StackLayout, tool: str, arguments: Sequence[str], schema: str) -> Command:
    """Return the command that runs *tool* against the stack in *layout*."""
    if tool in _KAFKA:
        return _kafka(layout, _KAFKA[tool], arguments), {}
    if tool not in _OTHERS:
        names = ", ".join(sorted({*_KAFKA, *_OTHERS}))
        raise QuestlogError(f"there is no tool {tool}", hint=f"tools: {names}")
    return _OTHERS[tool](layout, arguments, schema)


def _kafka(layout: StackLayout, main: str, arguments: Sequence[str]) -> list[str]:
    server = [] if "--bootstrap-server" in arguments else ["--bootstrap-server", f"127.0.0.1:{layout.ports['kafka']}"]
    quiet = f"-Dlog4j2.configurationFile={layout.etc}/kafka/tools-log4j2.properties"
    return [str(layout.java), *_QUICK, quiet, *kafka_class_path(layout), main, *server, *arguments]


def _kcat(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
    server = [] if "-b" in arguments else ["-b", f"127.0.0.1:{layout.ports['kafka']}"]
    program = shutil.which("kcat") or shutil.which("kafkacat")
    if program is None:
        raise NotInstalled("kcat is not installed", hint="apt-get install kcat, or brew install kcat")
    return [program, *server, *arguments], {}


def _hadoop(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
    main = _HADOOP.get(arguments[0]) if arguments else None
    if main is None:
        raise QuestlogError(
            "hadoop needs a subcommand: " + ", ".join(_HADOOP), hint="questlog stack exec hadoop fs -ls /"
        )
    quiet = f"-Dlog4j.configuration=file:{layout.etc}/hadoop/tools-log4j.properties"
    java = [str(layout.java), *_QUICK, quiet, *hadoop_class_path(layout)]
    return [*java, f"org.apache.hadoop.{main}", *arguments[1:]], {}


def _hdfs(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
    return _hadoop(layout, arguments, schema)


def _presto(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
    words = _with_defaults(f"http://127.0.0.1:{layout.ports['presto']}", arguments, schema)
    jar = str(fetched("presto") / "presto-cli.jar")
    return [str(layout.java), *_QUICK, "-Duser.timezone=UTC", "-jar", jar, *words], {}


def _trino(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
    words = _with_defaults(f"http://127.0.0.1:{layout.ports['trino']}", arguments, schema)
    jar = str(fetched("trino") / "trino-cli.jar")
    return [str(find_trino_java()), *_QUICK, "-Duser.timezone=UTC", "-jar", jar, *words], {}


def _with_defaults(url: str, arguments: Sequence[str], schema: str) -> list[str]:
    """Return *arguments* with server, catalog, schema and user added where they are not given."""
    given = {word.partition("=")[0] for word in arguments}
    defaults = {"--server": url, "--catalog": "iceberg", "--schema": schema, "--user": "questlog"}
    return [word for name, value in defaults.items() if name not in given for word in (name, value)] + list(arguments)


def _spark(tool: str) -> Callable[[StackLayout, Sequence[str], str], Command]:
    def build(layout: StackLayout, arguments: Sequence[str], schema: str) -> Command:
        home = spark_home()
        options = [word for name, value in spark_options(layout).items() for word in ("--conf", f"{name}={value}")]
        return [str(home / "bin" / tool), *options, *arguments], spark_environment(layout)

    return build


_OTHERS: Mapping[str, Callable[[StackLayout, Sequence[str], str], Command]] = {
    "hadoop": _hadoop,
    "hdfs": _hdfs,
    "kcat": _kcat,
    "presto": _presto,
    "pyspark": _spark("pyspark"),
    "spark-sql": _spark("spark-sql"),
    "spark-submit": _spark("spark-submit"),
    "trino": _trino,
}
