"""The end-to-end story on real servers: ApacheBench sends; kcat, hadoop, Metastore and Presto read."""

from __future__ import annotations

import json
import re
import select
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Producer
from hive_metastore.ThriftHiveMetastore import Client
from thrift.protocol import TBinaryProtocol
from thrift.transport import TSocket, TTransport

from questlog.stack import Stack
from support.cluster.cluster_project import Project, bench, beside, environment, get, serving
from support.paths import ROOT
from support.waiting import until

STATEMENTS = [
    "show tables",
    "describe sword_purchases",
    "select * from sword_purchases",
    "select host as host, count(*) as count from join_guild group by host",
    "select count(*) as count from join_guild",
]
ROUNDS = [
    ("user1.comcast.com", "/purchase_a_sword", [10, 10, 5]),
    ("user1.comcast.com", "/join_guild", [10, 10, 5]),
    ("foo.gmail.com", "/join_guild", [5] * 5),
]
SENT = 3 * 25 + 1
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def game(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A game that was played while `questlog up` forwarded and landed; all events are in the tables."""
    project = Project(tmp_path_factory.mktemp("game"), stack)
    assert "created with 2 partition(s)" in project.run("topic", "create").stdout
    with project.running("up") as up, serving(project.folder, "game") as port:
        print("sent by", shutil.which("ab") or "our own client: ab is not installed")
        for host, path, counts in ROUNDS:
            for count in counts:
                bench(port, path, host, count)
        assert get(port, "/") == (200, "This is the default response!\n")
        assert get(port, "/purchase_a_swor")[0] == 404
        until(lambda: project.landed() == SENT, "everything has landed", 900, alive=lambda: up.poll() is None)
        yield project


def test_the_topic_reads_with_kcat_from_the_beginning(game: Project) -> None:
    lines = game.exec("kcat", "-C", "-t", game.topic, "-o", "beginning", "-e").splitlines()
    records = [json.loads(line) for line in lines]
    assert Counter(record["event"]["event_type"] for record in records) == {
        "purchase_sword": 25, "join_guild": 50, "default": 1,
    }  # fmt: skip
    described = game.run("topic", "describe").stdout
    assert f"topic {game.topic}: {SENT} records in 2 partition(s)" in described


def test_hdfs_holds_the_tables_folders(game: Project) -> None:
    listed = game.exec("hadoop", "fs", "-ls", f"/warehouse/{game.name}.db/sword_purchases")
    assert re.findall(r"sword_purchases/(\w+)$", listed, re.M) == ["data", "metadata"]
    listed = game.exec("hadoop", "fs", "-ls", "-R", f"/warehouse/{game.name}.db/join_guild/data")
    assert re.search(r"received_time_day=\d{4}-\d\d-\d\d/.*\.parquet$", listed, re.M), listed


def test_the_metastore_lists_the_tables(game: Project) -> None:
    at = urlsplit(game.stack.addresses.metastore)
    transport = TTransport.TBufferedTransport(TSocket.TSocket(at.hostname, at.port))
    transport.open()
    client = Client(TBinaryProtocol.TBinaryProtocol(transport))
    tables = {"default", "join_guild", "quarantine", "sword_purchases"}
    assert set(client.get_all_tables(game.name)) - {"events"} == tables
    table = client.get_table(game.name, "sword_purchases")
    assert table.parameters["table_type"] == "ICEBERG"
    assert table.sd.location == f"{game.stack.addresses.warehouse}/{game.name}.db/sword_purchases"
    assert {column.name: column.comment for column in table.sd.cols}["price"] == "The price."
    transport.close()


def test_the_lander_has_created_the_view_for_prestos_own_command_line(game: Project) -> None:
    """Runs before any `questlog sql`, which creates the view too."""
    until(lambda: {"Table": "events"} in game.presto("show tables"), "the view exists", seconds=180)
    assert game.presto("select count(*) as count from events") == [{"count": SENT}]


def test_the_results_are_25_and_25_and_25_and_50(game: Project) -> None:
    assert len(game.presto(STATEMENTS[2])) == len(game.sql(STATEMENTS[2])) == 25
    by_host = [{"host": "foo.gmail.com", "count": 25}, {"host": "user1.comcast.com", "count": 25}]
    assert sorted(game.presto(STATEMENTS[3]), key=lambda row: row["host"]) == by_host
    assert sorted(game.sql(STATEMENTS[3]), key=lambda row: row["host"]) == by_host
    assert game.presto(STATEMENTS[4]) == game.sql(STATEMENTS[4]) == [{"count": 50}]


def test_the_five_statements_answer_the_same_in_questlog_and_in_prestos_own_command_line(game: Project) -> None:
    ours = {statement: game.sql(statement) for statement in STATEMENTS}
    theirs = {statement: game.presto(statement) for statement in STATEMENTS}
    tables, describe, rows, *counts = STATEMENTS
    names = [row["Table"] for row in theirs[tables]]
    assert sorted(names) == [row["name"] for row in ours[tables]]
    assert sorted(names) == ["default", "events", "join_guild", "quarantine", "sword_purchases"]
    described = [(row["Column"], row["Type"].removesuffix("(3)"), row["Comment"]) for row in theirs[describe]]
    assert described == [(row["column"], row["type"], row["comment"]) for row in ours[describe]]
    assert by_id(theirs[rows]) == by_id(ours[rows])
    for statement in counts:
        assert sorted(theirs[statement], key=str) == sorted(ours[statement], key=str)


def by_id(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return rows by their id, with times in a common spelling, since JSON has no time type."""
    return {row["event_id"]: {name: spelled(value) for name, value in row.items()} for row in rows}


def spelled(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d[ T][\d:.]+", value):
        day, moment = re.split("[ T]", value)
        return f"{day} {moment.rstrip('0').rstrip('.') if '.' in moment else moment}"
    return value


def test_events_and_quarantine_can_be_queried_too(game: Project) -> None:
    question = "select event_type, count(*) as count from events group by event_type order by event_type"
    counts = [("default", 1), ("join_guild", 50), ("purchase_sword", 25)]
    for ask in (game.sql, game.presto):
        assert [(row["event_type"], row["count"]) for row in ask(question)] == counts
        assert ask("select count(*) as count from quarantine") == [{"count": 0}]


def complete(game: Project) -> dict[str, Any]:
    """Return a report that every server answered in time; on a busy machine, the first may not be."""
    report: dict[str, Any] = {}

    def answered() -> bool:
        report.clear()
        report.update(game.status())
        return not any("trouble" in report[part] for part in ("topic", "lake"))

    until(answered, "every server answers in time", seconds=300)
    return report


def test_status_shows_every_event_and_a_balanced_ledger(game: Project) -> None:
    report = complete(game)
    assert report["spool"] | {"name": ""} == {
        "name": "",
        "accepted": SENT,
        "forwarded": SENT,
        "waiting": 0,
        "landed": SENT,
    }
    assert (report["forwarder"], report["trouble"]) == ("runs", None)
    assert (report["topic"]["records"], report["topic"]["waiting"], report["topic"]["lag_seconds"]) == (SENT, 0, 0.0)
    assert (report["balanced"], report["half_landed"], report["lake"]["lander"]) == (True, False, 1)
    assert report["ledger"] == {
        "read": SENT, "landed": SENT, "quarantined": 0, "duplicate": 0, "resent": 0, "lost": 0, "added": 0,
    }  # fmt: skip
    tables = {table["table"]: table for table in report["tables"]}
    assert {name: table["landed"] for name, table in tables.items()} == {
        "default": 1, "join_guild": 50, "quarantine": 0, "sword_purchases": 25,
    }  # fmt: skip
    assert {sum(table["position"].values()) for table in tables.values()} == {SENT}
    assert tables["join_guild"]["files"] >= 1 and tables["join_guild"]["bytes"] > 1000
    assert {table["waiting"] for table in tables.values()} == {0}
    text = game.run("status", code=None).stdout
    assert f"balances: read {SENT} = landed {SENT} + quarantined 0 + duplicate 0\n" in text
    assert re.search(r"^join_guild +50 +0 +\d+ .* 0  +0\.0 s", text, re.M), text


def test_a_collectors_metrics_show_the_same(game: Project) -> None:
    collector = [sys.executable, "-m", "questlog", "-C", str(game.folder), "collect", "--port", "0"]
    figures: dict[str, str] = {}
    with beside(collector, game.folder, environment()):
        log = game.folder / "beside.log"
        address = re.compile(r"collecting for .* on http://127.0.0.1:(\d+)")
        until(lambda: address.search(log.read_text()) is not None, "the collector listens")
        port = int(address.findall(log.read_text())[-1])

        def updated() -> bool:
            _, text = get(port, "/metrics")
            figures.update(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("questlog_"))
            return "questlog_ledger_balanced" in figures

        until(updated, "the figures are up to date", seconds=60)
    assert figures['questlog_landed_events{table="join_guild"}'] == "50.0"
    assert {name: figures[name] for name in (
        "questlog_spool_waiting_events", "questlog_topic_waiting_events", "questlog_topic_lag_seconds",
        "questlog_ledger_balanced", 'questlog_component_blocked{component="forwarder"}',
        'questlog_component_blocked{component="topic"}',
        'questlog_component_blocked{component="lake"}', 'questlog_landing_lag_seconds{table="join_guild"}',
    )} == {
        "questlog_spool_waiting_events": "0.0", "questlog_topic_waiting_events": "0.0",
        "questlog_topic_lag_seconds": "0.0", "questlog_ledger_balanced": "1.0",
        'questlog_component_blocked{component="forwarder"}': "0.0",
        'questlog_component_blocked{component="topic"}': "0.0",
        'questlog_component_blocked{component="lake"}': "0.0",
        'questlog_landing_lag_seconds{table="join_guild"}': "0.0",
    }  # fmt: skip
    assert float(figures["questlog_commit_age_seconds"]) > 0


def test_the_fields_to_monitor_are_in_the_report(game: Project) -> None:
    """docs/how-to/run-your-own-cluster.md names fields of `questlog status --json`."""
    page = (ROOT / "docs" / "how-to" / "run-your-own-cluster.md").read_text("utf-8")
    named = set(re.findall(r"`\.((?:\w+\.)*\w+)`", page))
    report = complete(game)
    assert {"trouble", "topic.lag_seconds", "lake.committed_seconds", "balanced"} <= named
    for field in named:
        value: Any = report
        for part in field.split("."):
            assert part in value, field
            value = value[part]


def test_tail_shows_the_topics_last_events(game: Project) -> None:
    lines = game.run("tail", "--no-follow", "--json", "-n", "30", "--event", "join_guild").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert {(event["event_type"], event["reason"]) for event in events} == {("join_guild", None)}
    (line,) = game.run("tail", "--here", "--no-follow", "-n", "1").stdout.splitlines()
    assert line.split(None, 1)[1].split() == ["default", '{"event_type":"default"}']


def test_tail_follows_events_of_other_machines_and_status_counts_bad_ones(game: Project) -> None:
    """The last test: an event of an old producer is shown when it arrives, then lands in quarantine."""
    command = [sys.executable, "-m", "questlog", "-C", str(game.folder), "tail", "-n", "0", "--json"]
    following = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())
    assert following.stdout is not None
    try:
        until(lambda: (send(game, b'{"event_type": "join_guil"}'), readable(following.stdout, 2))[1], "it is shown")
        shown = json.loads(following.stdout.readline())
        assert (shown["event_type"], shown["reason"]) == ("join_guil", "unknown_event_type")
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130
    finally:
        following.kill()
        following.wait()
    until(lambda: complete(game)["topic"]["waiting"] == 0, "the bad ones are landed", seconds=300)
    report = complete(game)
    bad = report["topic"]["records"] - SENT
    assert report["quarantine"] == {"unknown_event_type": bad}
    assert (report["balanced"], report["ledger"]["quarantined"]) == (True, bad)
    assert f"in quarantine: unknown_event_type {bad};" in game.run("status").stdout


def send(game: Project, value: bytes) -> None:
    """Send a record as a producer without questlog does."""
    producer = Producer({"bootstrap.servers": game.stack.addresses.kafka})
    producer.produce(game.topic, value)
    producer.flush()


def readable(stream: Any, seconds: float) -> bool:
    return bool(select.select([stream], [], [], seconds)[0])
