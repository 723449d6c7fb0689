"""The embedded export: any Parquet reader returns the rows of the tables, and never a partial day."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from questlog.errors import QuestlogError
from questlog.export import day_key
from questlog.export.folder import FolderExport
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record

PLAN = """
[events.buy.fields]
price = "decimal(12,2)"
tags = "list<string>"
weights = "map<string,double>"
place = "struct<x:int,seen:timestamp>"
"""
BODY = (
    b'{"event_type": "buy", "price": "9.99", "tags": ["a", null], "weights": {"kg": 0.5},'
    b' "place": {"x": 1, "seen": "2026-03-01T01:02:03.004Z"}}'
)
DAY = 86_400_000
START = 1_795_000_000_000


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    (tmp_path / "plan.toml").write_text(PLAN)
    with open_pipeline(tmp_path) as opened:
        yield opened
        opened.log.close()


def send(pipeline: Pipeline, *days: int) -> None:
    records = [
        encode_record(body, id=f"e{day}-{n}-{len(body)}", received_ms=START + day * DAY + n)
        for day in days
        for n, body in enumerate([BODY, BODY, b'{"event_type": "?"}'])
    ]
    pipeline.log.append(records)


def land(pipeline: Pipeline) -> None:
    with pipeline.lander() as lander:
        lander.drain()


def export(pipeline: Pipeline, folder: Path, *tables: str) -> Any:
    return FolderExport(pipeline.engine, folder).run(tables, threading.Event(), lambda *_: None)


def test_other_readers_return_the_same_rows_landed_or_not(pipeline: Pipeline, tmp_path: Path) -> None:
    send(pipeline, 0, 1)
    land(pipeline)
    send(pipeline, 2)
    exported = export(pipeline, tmp_path / "out")
    assert {name: (one.rows, len(one.written)) for name, one in exported.items()} == {
        "buy": (6, 3),
        "quarantine": (3, 3),
    }
    for name in ("buy", "quarantine"):
        columns = ", ".join(f'"{c}"' for c in pipeline.sql(f"select * from {name} limit 0").columns)
        files = tmp_path / "out" / name / "*/*.parquet"
        theirs = duckdb.sql(f"select {columns} from read_parquet('{files}') order by event_id").fetchall()
        assert theirs == pipeline.sql(f"select {columns} from {name} order by event_id").rows()
    days = f"select day, count(*) from read_parquet('{tmp_path}/out/buy/*/*.parquet', hive_partitioning = true)"
    assert [n for _, n in duckdb.sql(f"{days} group by day").fetchall()] == [2, 2, 2]
    file = next((tmp_path / "out/buy").rglob("*.parquet"))
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    assert (column.compression, pq.read_schema(file).field("price").type.precision) == ("SNAPPY", 12)


def test_only_changed_days_are_rewritten(pipeline: Pipeline, tmp_path: Path) -> None:
    send(pipeline, 0, 1)
    land(pipeline)
    export(pipeline, tmp_path / "out")
    files = {path: path.stat().st_ino for path in (tmp_path / "out").rglob("*.parquet")}
    again = export(pipeline, tmp_path / "out")
    assert {name: (one.written, one.unchanged) for name, one in again.items()} == {
        "buy": ([], 2), "quarantine": ([], 2),
    }  # fmt: skip
    assert {path: path.stat().st_ino for path in files} == files
    send(pipeline, 1)
    third = export(pipeline, tmp_path / "out", "buy")
    assert {name: (len(one.written), one.unchanged, one.rows) for name, one in third.items()} == {"buy": (1, 1, 4)}
    stray = tmp_path / "out/buy/day=2020-01-01"
    stray.mkdir()
    (stray / "data.parquet").write_bytes(next((tmp_path / "out/buy").rglob("day=2026*/*.parquet")).read_bytes())
    assert export(pipeline, tmp_path / "out", "buy")["buy"].dropped == ["2020-01-01"]


def test_a_reader_sees_the_old_or_the_new_day_complete(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted export leaves the old file; so does a full disk."""
    send(pipeline, 0)
    export(pipeline, tmp_path / "out", "buy")
    (file,) = (tmp_path / "out").rglob("*.parquet")
    before = file.read_bytes()
    send(pipeline, 0)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            export(pipeline, tmp_path / "out", "buy")
    assert [path for path in file.parent.iterdir()] == [file]
    assert file.read_bytes() == before
    assert export(pipeline, tmp_path / "out", "buy")["buy"].rows == 4


def test_an_unknown_table_is_named(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(QuestlogError, match="no table buys"):
        export(pipeline, tmp_path / "out", "buys")


def test_a_column_named_day_keeps_its_name() -> None:
    assert (day_key(["a"]), day_key(["Day"]), day_key(["day", "received_day"])) == (
        "day",
        "received_day",
        "_export_day",
    )
