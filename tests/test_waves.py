"""Real players' events all become rows, and every answer on the page can be computed from the file itself."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import re
import shutil
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

import questlog
from questlog.importer import Import, Source
from questlog.pipeline import Pipeline
from support.paths import WAVES

EVENTS = [json.loads(line) for line in gzip.decompress((WAVES / "waves.jsonl.gz").read_bytes()).splitlines()]
PAGE = re.findall(r"## (.*?)\n.*?```sql\n(.*?)```\n+```text\n(.*?)```", (WAVES / "questions.md").read_text(), re.S)
NAMES = {
    "BEGIN.0": "begin_level", "COMPLETE.0": "complete_level", "SUCCEED.0": "succeed", "FAIL.0": "fail",
    "CUSTOM.1": "slider_move_release", "CUSTOM.2": "arrow_move_release", "CUSTOM.3": "question_answer",
    "CUSTOM.4": "reset_button", "CUSTOM.5": "menu_button", "CUSTOM.6": "skip_button",
    "CUSTOM.7": "dismiss_menu_button",
}  # fmt: skip


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("waves")
    shutil.copy(WAVES / "plan.toml", folder)
    pipeline = questlog.open(folder)
    for _ in Import(pipeline, Source(str(WAVES / "waves.jsonl.gz")), name="waves").run():
        pass
    with pipeline.lander() as lander:
        lander.drain()
    yield pipeline
    pipeline.close()


def levels(name: str) -> Counter[int]:
    return Counter(e["event_data"]["level"] for e in EVENTS if e["event_name"] == name)


def most_failed() -> list[tuple[Any, ...]]:
    fails, successes = levels("FAIL.0"), levels("SUCCEED.0")
    worst = sorted(fails, key=lambda level: (-fails[level], level))[:5]
    return [(n, fails[n], successes[n], round(100 * fails[n] / (fails[n] + successes[n]), 1)) for n in worst]


def level_times() -> list[tuple[Any, ...]]:
    begun: dict[tuple[str, int], dt.datetime] = {}
    done: dict[tuple[str, int], float] = {}
    for event in sorted(EVENTS, key=lambda e: e["timestamp"]):
        key, at = (event["session_id"], event["event_data"]["level"]), dt.datetime.fromisoformat(event["timestamp"])
        if event["event_name"] == "BEGIN.0":
            begun.setdefault(key, at)
        elif event["event_name"] == "COMPLETE.0" and key in begun:
            done.setdefault(key, (at - begun[key]).total_seconds())
    times = defaultdict(list)
    for (_, level), seconds in done.items():
        times[level].append(seconds)
    return [(n, len(times[n]), round(statistics.median(times[n]), 1)) for n in sorted(times) if n <= 8]


def sliders_per_success() -> list[tuple[Any, ...]]:
    names = Counter(e["event_name"] for e in EVENTS)
    sliders, successes = names["CUSTOM.1"], names["SUCCEED.0"]
    return [(sliders, successes, round(sliders / successes, 2))]


def most_skipped() -> list[tuple[Any, ...]]:
    skips = levels("CUSTOM.6")
    return [(level, skips[level]) for level in sorted(skips, key=lambda n: (-skips[n], n))[:3]]


def questions() -> list[tuple[Any, ...]]:
    asked = [e["event_data"] for e in EVENTS if e["event_name"] == "CUSTOM.3"]
    return [
        (
            q,
            sum(a["question"] == q for a in asked),
            sum(a["question"] == q and a["answered"] == a["answer"] for a in asked),
        )
        for q in sorted({a["question"] for a in asked})
    ]


SECOND_WAY = [most_failed, level_times, sliders_per_success, most_skipped, questions]


def test_every_event_is_a_row_in_a_table_with_a_readable_name(waves: Pipeline) -> None:
    expected = Counter(NAMES[e["event_name"]] for e in EVENTS)
    assert dict(waves.sql("select event_type, count(*) from events group by 1").rows()) == dict(expected)
    assert sum(expected.values()) == 5832
    assert waves.sql("select count(*) from quarantine").rows() == [(0,)]


def test_every_value_of_an_event_is_in_its_columns(waves: Pipeline) -> None:
    """Every number, text and time is stored as it was sent."""
    for name, table in NAMES.items():
        sent = [e for e in EVENTS if e["event_name"] == name]
        rows = waves.sql(f"select * from {table} order by event_id").dicts()
        by_place = {(r["session_id"], r["sequence"]): r for r in rows}
        assert len(by_place) == len(sent) == len(rows)
        for event in sent:
            row = by_place[event["session_id"], event["index"]]
            assert row["event_time"] == dt.datetime.fromisoformat(event["timestamp"])
            assert row["player_id"] == event["player_id"] and row["_rescued"] is None
            fields = {name: value for name, value in event["event_data"].items() if name != "event_custom"}
            assert {name: row[name] for name in fields} == fields


def test_every_question_on_the_page_is_computed_a_second_way() -> None:
    assert len(PAGE) == len(SECOND_WAY)


@pytest.mark.parametrize(("question", "second"), list(zip(PAGE, SECOND_WAY, strict=True)), ids=[q[0] for q in PAGE])
def test_an_answer_equals_the_one_computed_a_second_way(
    waves: Pipeline, question: tuple[str, str, str], second: Any
) -> None:
    _, statement, printed = question
    result = waves.sql(statement)
    assert [tuple(map(float, row)) for row in result.rows()] == [tuple(map(float, row)) for row in second()]
    lines = printed.strip().splitlines()
    assert lines[0].split() == result.columns
    assert [tuple(map(float, line.split())) for line in lines[2:]] == [tuple(map(float, row)) for row in result.rows()]
