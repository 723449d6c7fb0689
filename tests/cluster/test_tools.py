"""`questlog stack exec` runs the command-line tools of each server against the stack."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cluster.test_stack import questlog
from questlog.stack import Stack
from support.paths import ROOT

SMALL = ("--driver-memory", "512m")


def run(stack: Stack, *words: str, seconds: float = 120, **more: str) -> str:
    """Return what `questlog stack exec …` printed."""
    command = [sys.executable, "-m", "questlog", "stack", "--dir", str(stack.folder), "exec", *words]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=seconds,
        input=more.pop("stdin", None),
        env={**os.environ, **more},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def name() -> str:
    """A name that is unique on the stack, for the topic, folder and schema of these tests."""
    return f"tools_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def topic(stack: Stack, name: str) -> str:
    """A topic of two partitions and five records, sent with kcat."""
    run(stack, "kafka-topics", "--create", "--topic", name, "--partitions", "2")
    run(
        stack,
        "kcat",
        "-P",
        "-t",
        name,
        "-p",
        "0",
        "-K",
        ":",
        "-H",
        "spool=a.1",
        stdin="k1:one\nk2:zwei ü\n:empty key\n",
    )
    run(stack, "kcat", "-P", "-t", name, "-p", "1", stdin="four\nfive\n")
    return name


def test_kafkas_own_tools(stack: Stack, topic: str) -> None:
    described = run(stack, "kafka-topics", "--describe", "--topic", topic)
    assert "PartitionCount: 2" in described
    assert run(stack, "kafka-get-offsets", "--topic", topic).split() == [f"{topic}:0:3", f"{topic}:1:2"]
    options = ("--topic", topic, "--from-beginning", "--max-messages", "5", "--group", topic)
    read = run(stack, "kafka-console-consumer", *options)
    assert sorted(read.split("\n")) == ["", "empty key", "five", "four", "one", "zwei ü"]
    group = run(stack, "kafka-consumer-groups", "--describe", "--group", topic)
    assert len(re.findall(rf"^{topic}\s+{topic}\s+\d+\s+(\d+)\s+\1\s+0\s", group, re.M)) == 2, group
    run(stack, "kafka-console-producer", "--topic", topic, stdin="six\n")
    assert sum(int(line.rsplit(":", 1)[1]) for line in run(stack, "kafka-get-offsets", "--topic", topic).split()) == 6
    run(stack, "kafka-configs", "--alter", "--topic", topic, "--add-config", "retention.ms=3600000")
    assert "retention.ms=3600000" in run(stack, "kafka-configs", "--describe", "--topic", topic)


READS = [
    ("-C", "-o", "beginning", "-e"),
    ("-C", "-p", "0", "-e"),
    ("-C", "-p", "0", "-o", "-2", "-e"),
    ("-C", "-p", "0", "-o", "1", "-c", "1"),
    ("-C", "-p", "0", "-e", "-K", "\\t", "-D", "|"),
    ("-C", "-p", "0", "-e", "-J"),
    ("-C", "-p", "0", "-e", "-f", "%t %p %o key=%k,%K value=%s,%S headers=%h \\x41\\n"),
    ("-C", "-p", "0", "-o", "s@0", "-e", "-q"),
    ("-L",),
]


def stand_in(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the stand-in for kcat against the stack."""
    server = [] if "-b" in words else ["-b", stack.addresses.kafka]
    return subprocess.run(
        [sys.executable, "-m", "support.cluster.kcat", *server, *words],
        capture_output=True, text=True, timeout=120, cwd=ROOT / "tests",
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("kcat") is None, reason="needs kcat to compare with")
@pytest.mark.parametrize("words", READS, ids=" ".join)
def test_the_stand_in_reads_what_kcat_reads(stack: Stack, topic: str, words: tuple[str, ...]) -> None:
    ours = stand_in(stack, "-t", topic, *words)
    assert ours.returncode == 0, ours.stderr
    assert re.search(topic if words == ("-L",) else "one|zwei|empty key", ours.stdout)
    theirs = questlog(stack, "exec", "kcat", "-t", topic, *words)
    theirs.stdout = re.sub(r"\(from .*", "", theirs.stdout)  # either may have asked another broker
    ours.stdout = re.sub(r"\(from .*", "", ours.stdout)
    theirs.stdout = theirs.stdout.replace('"broker":1,', "")  # the Python client does not report the broker
    assert sorted(theirs.stdout.splitlines()) == sorted(ours.stdout.splitlines())
    ends = [[line for line in each.stderr.splitlines() if "Reached end" in line] for each in (theirs, ours)]
    assert len(ends[0]) == len(ends[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-C", "-t", "no-such-topic", "-e"), "no-such-topic error: Broker: Unknown topic or partition"),
        (("-C",), "-t TOPIC is missing"),
        (("-G", "group", "events"), "the real kcat may support it"),
        (("-C", "-t", "x", "-b", "127.0.0.1:9"), "transport failure"),
    ],
)
def test_the_stand_in_reports_errors(stack: Stack, words: tuple[str, ...], message: str) -> None:
    done = stand_in(stack, *words)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_hadoops_file_system(stack: Stack, name: str, tmp_path: Path) -> None:
    (tmp_path / "local.txt").write_text("swords\n")
    run(stack, "hadoop", "fs", "-mkdir", "-p", f"/{name}")
    run(stack, "hadoop", "fs", "-put", str(tmp_path / "local.txt"), f"/{name}/")
    assert run(stack, "hadoop", "fs", "-cat", f"/{name}/local.txt") == "swords\n"
    assert f"/{name}/local.txt" in run(stack, "hdfs", "dfs", "-ls", f"/{name}")
    assert "Live datanodes (1)" in run(stack, "hdfs", "dfsadmin", "-report")
    run(stack, "hadoop", "fs", "-rm", "-r", f"/{name}")


JOB = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
schema = sys.argv[1]
spark.sql(f"create namespace if not exists lake.{schema}")
spark.range(5).selectExpr("id", "timestamp '2026-03-01 00:00:00' as seen").writeTo(f"lake.{schema}.numbers").create()
print("rows", spark.table(f"lake.{schema}.numbers").count())
spark.stop()
"""


def test_every_tool_reads_the_table_of_a_spark_job(stack: Stack, name: str, tmp_path: Path) -> None:
    """spark-submit writes an Iceberg table; spark-sql, pyspark, Presto's own command line and HDFS see it."""
    (tmp_path / "job.py").write_text(JOB)
    assert "rows 5" in run(stack, "spark-submit", *SMALL, str(tmp_path / "job.py"), name, seconds=240)
    query = f"select sum(id) as total, min(seen) as seen from lake.{name}.numbers"
    assert run(stack, "spark-sql", *SMALL, "-e", query, seconds=240).split("\t") == ["10", "2026-03-01 00:00:00\n"]
    answer = run(stack, "presto", "--schema", name, "--execute", "select sum(id), min(seen) from numbers")
    assert answer == '"10","2026-03-01 00:00:00.000"\n'
    assert ".parquet" in run(stack, "hadoop", "fs", "-ls", "-R", f"/warehouse/{name}.db/numbers/data")
    shell = Terminal(stack, "pyspark", *SMALL)
    shell.wait_for(">>> ", 120)
    shell.type(f"'read', spark.table('lake.{name}.numbers').count() + 100")
    shell.wait_for("('read', 105)", 120)
    shell.type("exit()")
    assert shell.end() == 0
    run(stack, "presto", "--schema", name, "--execute", "drop table numbers")


class Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, stack: Stack, *words: str) -> None:
        self._screen, inner = pty.openpty()
        command = [sys.executable, "-m", "questlog", "stack", "--dir", str(stack.folder), "exec", *words]
        environment = {**os.environ, "TERM": "dumb"}
        self._process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True
        )
        os.close(inner)
        self._seen = ""

    def wait_for(self, text: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen
            self._seen += os.read(self._screen, 65536).decode("utf-8", "replace")
        self._seen = ""

    def type(self, line: str) -> None:
        os.write(self._screen, line.encode() + b"\n")

    def end(self) -> int:
        return self._process.wait(60)


def test_presto_gets_server_catalog_and_schema(stack: Stack, tmp_path: Path) -> None:
    """In a project's folder the schema is the project's; options that the user gives take precedence."""
    (tmp_path / "plan.toml").write_text("[events.default]\n")
    (tmp_path / "questlog.toml").write_text('namespace = "information_schema"\n')
    command = [
        sys.executable,
        "-m",
        "questlog",
        "-C",
        str(tmp_path),
        "stack",
        "--dir",
        str(stack.folder),
        "exec",
        "presto",
    ]
    query = "select (select current_user), count(*) > 0 from schemata"
    done = subprocess.run([*command, "--execute", query], capture_output=True, text=True, timeout=120)
    assert done.stdout == '"questlog","true"\n', done.stderr
    done = subprocess.run(
        [*command, "--user", "ann", "--output-format", "JSON", "--execute", "select current_user as me"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"me": "ann"}
