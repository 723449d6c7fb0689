"""The parts of a promotion that need no cluster: comparison, questions, the handover and what the log keeps."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from questlog.cli import cli
from questlog.errors import QuestlogError
from questlog.log import Batch, Gap, Position
from questlog.log.kafka.spool import Handover, Spool, keep_from
from questlog.log.sqlite import SqliteLog
from questlog.pipeline import Pipeline, open_pipeline
from questlog.promote.compare import Side, compare, differences, questions
from questlog.promote.handover import abandon, advance, begin
from questlog.promote.prefix import LogPrefix
from questlog.promote.setup import write_profile
from questlog.record import encode_record

PLAN = '[game]\nname = "g"\n[events.join_guild.fields]\nguild = "string"\n'


def side(*rows: tuple[Any, ...], columns: str = "a b") -> Side:
    return Side(columns.split(), rows)


@pytest.mark.parametrize(
    ("ours", "theirs", "only"),
    [
        ([(1, "x"), (2, "y")], [(2, "y"), (1, "x")], ([], [])),
        ([(1, "x"), (1, "x")], [(1, "x")], ([(1, "x")], [])),
        ([(0.1 + 0.2, None)], [(0.3, None)], ([], [])),
        ([(float("nan"), 1)], [(float("nan"), 1)], ([], [])),
        ([(10**15, 1)], [(10**15 + 1, 1)], ([(10**15, 1)], [(10**15 + 1, 1)])),
        ([(Decimal("1.50"), 1)], [(Decimal("1.5"), 1)], ([], [])),
        ([(Decimal("1.50"), 1)], [(1.5, 1)], ([], [])),
        ([("", 1)], [(None, 1)], ([("", 1)], [(None, 1)])),
        ([(True, 1)], [(1, 1)], ([], [])),
        ([({"k": 1 / 3, "l": [None]}, 1)], [({"l": [None], "k": 1 / 3 + 1e-16}, 1)], ([], [])),
        ([({"k": "v"}, 1)], [({"k": "w"}, 1)], ([({"k": "v"}, 1)], [({"k": "w"}, 1)])),
        ([(b"\xff", 1)], [(bytearray(b"\xff"), 1)], ([], [])),
    ],
)  # fmt: skip
def test_rows_are_equal_in_any_order_and_up_to_the_last_digits_of_floats(
    ours: list[Any], theirs: list[Any], only: tuple[list[Any], list[Any]]
) -> None:
    if isinstance(ours[0][0], bool):
        only = ([], [(1, 1)]) if only[0] else only
    assert differences(side(*ours), side(*theirs)) == only


def test_columns_are_matched_by_name_and_landing_times_are_ignored() -> None:
    ours = side((1, "x", 5), columns="a b landed_time")
    assert differences(ours, side((6, "x", 1), columns="landed_time b a")) == ([], [])


class Fixed:
    """An engine with one fixed answer."""

    def __init__(self, pipeline: Pipeline, text: str) -> None:
        self._pipeline, self._text = pipeline, text

    def run(self, text: str) -> Any:
        return self._pipeline.sql(self._text or text)


def test_a_column_that_one_side_lacks_and_an_error_are_differences(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    with open_pipeline(tmp_path) as pipeline:
        standard = questions(tmp_path, [], {})
        one, two = Fixed(pipeline, "select 1 as a"), Fixed(pipeline, "select 1 as a, 2 as b")
        assert [answer.equal for answer in compare(standard, one, one)] == [True]
        assert [answer.equal for answer in compare(standard, one, two)] == [False]
        (answer,) = compare(standard, one, Fixed(pipeline, "select nothing"))
        assert (answer.equal, "nothing" in answer.cluster.error) == (False, True)


def test_saved_queries_replace_the_standard_ones(tmp_path: Path) -> None:
    standard = [question.name for question in questions(tmp_path, ["join_guild", "quarantine"], {})]
    assert standard == [
        "count join_guild", "count quarantine", "show tables", "describe join_guild", "rows of join_guild",
        "describe quarantine", "rows of quarantine", "guilds by host", "guilds",
    ]  # fmt: skip
    (tmp_path / "queries").mkdir()
    (tmp_path / "queries" / "daily.sql").write_text("select 1;\nselect ';'")
    (tmp_path / "queries" / "top.sql").write_text("-- the best\nselect 2")
    saved = questions(tmp_path, ["quarantine"], {})
    assert [question.name for question in saved] == ["count quarantine", "daily 1", "daily 2", "top"]
    assert saved[2].sql == "select ';'"


def test_only_the_first_rows_of_a_large_table_are_compared(tmp_path: Path) -> None:
    rows = next(q for q in questions(tmp_path, ["t"], {"t": 10_001}) if q.name == "rows of t")
    assert rows.sql == 'select * from "t" order by event_id limit 10000'


def records(count: int) -> list[bytes]:
    body = b'{"event_type": "join_guild", "guild": "wolves"}'
    return [encode_record(body, id=f"e{n}", received_ms=1) for n in range(count)]


def test_a_log_prefix_ends_at_its_position_however_much_follows(tmp_path: Path) -> None:
    logs = [SqliteLog(tmp_path, min_free_bytes=0) for _ in range(2)]  # a partition each
    for _ in range(5):
        for log in logs:
            log.append(records(10))
    one, other = sorted(logs[0].end())
    until = {one: 15, other: 40}
    places, position = [], {}
    log = LogPrefix(logs[0], until)
    while batch := log.read(position, 7):
        places += [(entry.partition, entry.offset) for entry in batch.entries]
        position = dict(batch.through)
    assert sorted(places) == [(p, offset) for p, end in sorted(until.items()) for offset in range(end)]
    assert position == until
    for log in logs:
        log.close()


def test_a_log_prefix_cuts_gaps_at_its_position_too() -> None:
    class Damaged:
        def read(self, after: Position, limit: int, max_bytes: int = 0) -> Batch:
            return Batch((), {1: 30}, (Gap(1, 10, 30, "damaged"),)) if after.get(1, 0) < 30 else Batch((), after)

        def end(self) -> Position:
            return {1: 30}

        def trim(self, before: Position, older_than_ms: int) -> int:
            return 0

    batch = LogPrefix(Damaged(), {1: 20}).read({1: 10}, 5)
    assert (batch.gaps, batch.through) == ((Gap(1, 10, 20, "damaged"),), {1: 20})


def test_only_the_promotion_may_forward_before_the_handover_is_sealed(tmp_path: Path) -> None:
    begun = Handover("x", "schema s")
    with Spool(tmp_path, tmp_path / "log", promoting=True) as spool:
        begin(spool, begun, {0: 7})
    with pytest.raises(QuestlogError, match="not yet all in schema s"), Spool(tmp_path, tmp_path / "log"):
        pass
    with Spool(tmp_path, tmp_path / "log", promoting=True) as spool:
        assert (spool.handover, spool.sent) == (begun, {0: 7})
        advance(spool, "sealed", {0: 9, 1: 2})
    with Spool(tmp_path, tmp_path / "log") as spool:
        assert spool.sent == {0: 9, 1: 2}
        abandon(spool)
        assert (spool.handover, spool.sent) == (None, {})


def test_the_laptops_lander_keeps_the_log_that_the_cluster_still_needs(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path, keep_log_hours=0)
    project = pipeline.project
    log = SqliteLog(project.log_folder, min_free_bytes=0, segment_bytes=1, trim_grace_seconds=0)
    pipeline.log = log  # type: ignore[misc]

    def first_kept() -> int:
        return log.read({}, 1).entries[0].offset

    def land() -> None:
        with pipeline.lander() as lander:
            lander.drain()

    for _ in range(4):
        log.append(records(10))
    (partition,) = log.end()
    with Spool(project.data, project.log_folder, promoting=True) as spool:
        begin(spool, Handover("x", "schema s"), {partition: 10})
        advance(spool, "sealing")
    assert keep_from(project.data) == {partition: 10}
    for _ in range(2):
        land()
    assert first_kept() == 10
    with Spool(project.data, project.log_folder, promoting=True) as spool:
        abandon(spool)
    assert keep_from(project.data) is None
    for _ in range(2):
        land()
    assert first_kept() > 10
    pipeline.close()
    log.close()


def test_status_shows_a_promotion_and_how_many_records_followed(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path)
    pipeline.log.append(records(10))
    (partition,) = pipeline.log.end()
    with Spool(pipeline.project.data, pipeline.project.log_folder, promoting=True) as spool:
        begin(spool, Handover("x", "schema s"), {partition: 4})
        ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "status"])
        assert "the promotion to schema s is unfinished" in ran.output
        advance(spool, "sealed")
    ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "status"])
    assert "promoted to schema s: 6 records have been logged since" in ran.output
    ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "promote", "--abandon"])
    assert "given up; the copied tables stay in schema s" in ran.output
    ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "status"])
    assert "schema s" not in ran.output
    pipeline.log.close()


def test_missing_servers_are_reported_one_by_one_and_nothing_begins(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "questlog.toml").write_text(
        'metastore = "thrift://127.0.0.1:9"\nwarehouse = "hdfs://127.0.0.1:9/w"\n'
        '[presto]\nurl = "http://127.0.0.1:9"\n[kafka]\nbootstrap.servers = "127.0.0.1:9"\n'
    )
    ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "promote", "--check", "--json"])
    missing = {need["what"] for need in json.loads(ran.stdout)["needs"] if not need["good"] and need["hint"]}
    assert ran.exit_code == 1
    assert missing >= {"kafka", "metastore", "warehouse", "presto"}
    ran = CliRunner().invoke(cli, ["-C", str(tmp_path), "promote"])
    assert isinstance(ran.exception, QuestlogError)
    assert not (tmp_path / ".questlog" / "forward.db").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, 'profile = "cluster"\n'),
        ('# ours\nprofile = "embedded"  # for now\n[kafka]\nprofile = "x"\n',
         '# ours\nprofile = "cluster"\n[kafka]\nprofile = "x"\n'),
        ('topic = "t"\n[spark]\n', 'profile = "cluster"\ntopic = "t"\n[spark]\n'),
    ],
)  # fmt: skip
def test_only_the_line_of_the_profile_changes(tmp_path: Path, before: str | None, after: str) -> None:
    path = tmp_path / "questlog.toml"
    if before is not None:
        path.write_text(before)
    write_profile(path)
    assert path.read_text() == after
