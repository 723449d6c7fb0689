"""Both profiles produce equal tables from the same events: every value of every row, in quarantine too."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_spark_lander import Game, is_json, spark  # noqa: F401
from questlog.land.spark.lander import SparkLander
from questlog.land.spark.source import commit_offsets
from questlog.pipeline import open_pipeline
from questlog.record import encode_record
from support.cluster.spark_options import Kept

COUNT = int(os.environ.get("QUESTLOG_PARITY", "100000"))
SEED = 20261125
PLACES = ("log_partition", "log_offset", "landed_time")
"""A row's position in the log and its landing time: each profile has its own."""
FIRST = """
[game]
name = "swords"
[headers]
keep = ["Host", "Accept", "User-Agent"]
[events.default]
[events.purchase_sword]
description = "A player bought a sword."
table = "sword_purchases"
[events.purchase_sword.fields]
sword = { type = "string", max_length = 64 }
price = { type = "decimal(12,2)", min = 0 }
tags = "list<string>"
extra = "map<string,double>"
place = "struct<x:int,seen:timestamp>"
[events.join_guild]
[events.join_guild.fields]
guild = "string"
level = "int"
share = "float"
born = "date"
rank = { type = "string", enum = ["knight", "squire"] }
"""
SECOND = (
    FIRST.replace('level = "int"', 'level = "long"\nmotto = "string"')
    + """
[events.slay_dragon.fields]
heads = { type = "int", min = 1 }
"""
)
THIRD = (
    SECOND.replace("decimal(12,2)", "decimal(20,2)").replace('share = "float"', 'share = "double"')
    + """
weight = "double"
"""
)
PLANS = (FIRST, SECOND, THIRD)
"""The plan changes twice: columns and a type are added, other columns are widened."""
GAME = [{"event_type": "default"}, {"event_type": "purchase_sword"}, {"event_type": "join_guild"}]
"""The events of the example game."""
HOSTS = ["user1.comcast.com", "foo.gmail.com", "naïve.example", ""]


def bodies(count: int) -> Iterator[bytes]:
    """Yield the game's events many times; of a hundred, one is malformed, one has an unknown type, ten are hostile."""
    chance = random.Random(SEED)
    for number in range(count):
        kind = chance.randrange(100)
        event: dict[str, Any] = dict(chance.choice(GAME))
        if kind == 0:
            yield chance.choice([b"nope", b'{"event_type": "join_guild"', b"[1]", b"\xff\xfe", b"", b'{"a":' * 80])
        elif kind == 1:
            yield json.dumps({"event_type": f"unheard_of_{number % 7}", "n": number}).encode()
        elif kind < 12:
            yield json.dumps(event | _hostile(chance, number)).encode()
        elif kind < 20:
            yield json.dumps({"event_type": "slay_dragon", "heads": chance.choice([1, 3, 0]), "weight": 0.1}).encode()
        else:
            yield json.dumps(event | _usual(chance, number)).encode()


def _usual(chance: random.Random, number: int) -> dict[str, Any]:
    return {
        "player_id": f"p{number % 997}", "sequence": number, "price": chance.choice(["1.50", "19.99", 2]),
        "sword": chance.choice(["katana", "épée 剣", None]), "guild": chance.choice(["wolves", "bears"]),
        "level": number % 60, "event_time": f"2026-11-24T{number % 24:02}:00:00.{number % 1000:03}Z",
    }  # fmt: skip


def _hostile(chance: random.Random, number: int) -> dict[str, Any]:
    """Return fields with every kind of value that has ever caused a bug."""
    return {
        "sword": chance.choice(["", "\u2028'\"\\", "x" * 65, "\U0001f5e1\u0000", 7]),
        "price": chance.choice(["-0.01", 1e9, "1e3", "99999999999999.99", "much", True]),
        "tags": chance.choice([[], ["a", None], "a", ["\U0001f5e1"]]),
        "extra": {"k": chance.random(), "": chance.choice([1, 1e308, None, "x"])},
        "place": chance.choice([None, {"x": number, "seen": "2026-11-24T10:00:00.123Z"}, {"x": 2**40}, {}]),
        "guild": chance.choice(["", "x" * 3000, None]), "level": chance.choice([-1, 2**31, 2**63, 1.5, "9"]),
        "share": chance.choice([0.1, 1e39, "0.5"]), "born": chance.choice(["2026-02-29", "2024-02-29", 5]),
        "rank": chance.choice(["knight", "king"]), "event_time": chance.choice(["yesterday", -1, 1e18, None]),
        "player_id": chance.choice([5, "p", "x" * 300]), "unknown": {"deep": [{"er": number}]},
        "event_id": chance.choice([None, f"mine{number % 50}"]), "motto": chance.choice(["no", 3]),
    }  # fmt: skip


def records(count: int) -> Iterator[bytes]:
    """Yield them as a collector logs them; some ids are chosen by clients, and repeat."""
    chance = random.Random(SEED + 1)
    for number, body in enumerate(bodies(count)):
        chosen = chance.randrange(50) == 0
        yield encode_record(
            body, id=f"c{number // 100 % 200}" if chosen else f"p{number}", client_id=chosen,
            received_ms=1_795_000_000_000 + number * 40, is_json=is_json(body), sent_ms=1_795_000_000_000 - number,
            headers={"Host": chance.choice(HOSTS), "Accept": "*/*", "User-Agent": "ApacheBench/2.3", "Cookie": "no"},
        )  # fmt: skip


def rows(table: pa.Table) -> pa.Table:
    """Return rows in order of their ids, without positions and landing times."""
    kept = table.drop_columns([name for name in PLACES if name in table.column_names])
    return kept.sort_by([("event_id", "ascending"), ("received_time", "ascending")])


@pytest.mark.timeout(1200)
def test_both_profiles_give_equal_rows(
    tmp_path: Path,
    servers: dict[str, str],
    spark: Any,  # noqa: F811
    record_property: Callable[[str, object], None],
) -> None:
    """The plan changes twice; both sides first land everything logged before, so each event meets the same plan."""
    print(f"seed {SEED}, {COUNT} events")
    started = time.monotonic()
    (tmp_path / "cluster").mkdir()
    (tmp_path / "embedded").mkdir()
    game = Game(tmp_path / "cluster", servers, spark)
    (tmp_path / "embedded" / "plan.toml").write_text(FIRST)
    embedded = open_pipeline(tmp_path / "embedded", profile="embedded")
    lines = list(records(COUNT))
    step = -(-COUNT // len(PLANS))
    for number, plan in enumerate(PLANS):
        for folder in (tmp_path / "cluster", tmp_path / "embedded"):
            (folder / "plan.toml").write_text(plan)
        part = lines[number * step : (number + 1) * step]
        for start in range(0, len(part), 500):
            embedded.log.append(part[start : start + 500])
            game.pipeline.log.append(part[start : start + 500])
        with embedded.lander() as lander:
            lander.drain()
        game.forward()
        with SparkLander(
            lambda: Kept(spark), lambda: game.pipeline.plan, topic=game.name, kafka=game.kafka, namespace=game.name,
            data=game.pipeline.project.data, batch_records=20_000,
            publish=lambda position: commit_offsets(game.kafka, game.name, position),
        ) as cluster:  # fmt: skip
            cluster.drain()
    total, quarantined = 0, 0
    for table in ("default", "join_guild", "slay_dragon", "sword_purchases", "quarantine"):
        ours = rows(embedded.sql(f'select * from "{table}"').arrow())
        theirs = rows(spark.table(f"lake.{game.name}.`{table}`").toArrow()).select(ours.column_names)
        theirs = theirs.cast(ours.schema)
        assert ours.num_rows == theirs.num_rows > 0
        for name in ours.column_names:
            left, right = ours.column(name).to_pylist(), theirs.column(name).to_pylist()
            if left != right:
                index = next(n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
                assert (table, name, ours.slice(index, 1).to_pylist()) == (
                    table,
                    name,
                    theirs.slice(index, 1).to_pylist(),
                )
        total += ours.num_rows
        quarantined += ours.num_rows if table == "quarantine" else 0
    assert COUNT * 0.9 < total < COUNT
    assert quarantined > COUNT * 0.02
    seconds = time.monotonic() - started
    record_property("seconds", seconds)
    print(f"{total} rows, {quarantined} of them in quarantine, equal after {seconds:.0f} s")
    game.pipeline.log.close()
    embedded.close()
    embedded.log.close()
