"""Benchmark commits as the table ages: ours against PyIceberg's own `append`, in the same run.

Both write the same rows to an Iceberg table of the same schema, with a SQLite catalog on the same disk. Ours also
fsyncs every file, stores the position and the ledger, and runs its maintenance (timed and reported separately).
Run: .venv/bin/python bench/commit.py [--commits 10000] [--peer-seconds 600] [--rows 100]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import Goal, save
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.transforms import DayTransform

from questlog.lake.iceberg import IcebergTables
from questlog.lake.maintenance import Maintenance
from questlog.lake.state import read_state
from questlog.plan.columns import table_schema
from questlog.plan.load import parse_plan

PLAN = """
[events.purchase_sword.fields]
sword = "string"
price = "decimal(12,2)"
currency = "string"
"""
MARKS = (10, 100, 1_000, 10_000)
GRACE_SECONDS = 30
"""Replaced files stay on disk for this long, for queries that still read them."""
WINDOW = 9
"""A result is the median of the commits around its mark, because single fsyncs vary."""


def batch(schema: pa.Schema, number: int, rows: int) -> pa.Table:
    """Return the *number*-th batch, with the cardinalities of real events."""
    now = 1_790_000_000_000_000 + number * 2_000_000
    columns = {
        "event_id": [f"{number:08x}-{i:06x}" for i in range(rows)],
        "event_type": ["purchase_sword"] * rows,
        "event_time": [now + i for i in range(rows)],
        "received_time": [now + i for i in range(rows)],
        "player_id": [f"player-{(number * 31 + i * 7) % 5000}" for i in range(rows)],
        "sword": [f"sword-{i % 40}" for i in range(rows)],
        "raw_event": [f'{{"event_type":"purchase_sword","sword":"sword-{i % 40}","n":{number}}}' for i in range(rows)],
    }
    return pa.table({f.name: pa.array(columns.get(f.name, [None] * rows), f.type) for f in schema}, schema=schema)


class Ours:
    """`IcebergTables.commit` and maintenance."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        self.tables = IcebergTables(folder / "catalog.db", folder / "lake")
        self.maintenance = Maintenance(self.tables, lambda: None, grace_seconds=GRACE_SECONDS)
        self.maintenance_seconds = 0.0
        self.number = 0

    def append(self, rows: pa.Table) -> None:
        self.number += 1
        self.tables.commit("purchase_sword", rows, {0: self.number * rows.num_rows}, "v1")

    def after(self) -> None:
        started = time.perf_counter()
        self.maintenance.step()
        self.maintenance_seconds += time.perf_counter() - started

    def settle(self) -> dict[str, Any]:
        """Run the remaining maintenance once the last replaced files may be deleted."""
        time.sleep(GRACE_SECONDS + 1)
        while self.maintenance.step():
            pass
        return self.facts()

    def facts(self) -> dict[str, Any]:
        state = read_state(self.tables.state).tables["purchase_sword"]
        return {"rows": state.rows, "live files": len(state.files), "files on disk": on_disk(self.folder)}


class Peer:
    """PyIceberg's plain `append`."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder = folder
        catalog = SqlCatalog("peer", uri=f"sqlite:///{folder}/catalog.db", warehouse=str(folder / "lake"))
        catalog.create_namespace("peer")
        table = catalog.create_table(("peer", "purchase_sword"), schema=schema)
        with table.update_spec() as update:
            update.add_field("received_time", DayTransform(), "received_day")
        self.table = table

    def append(self, rows: pa.Table) -> None:
        self.table.append(rows)

    def after(self) -> None:
        """PyIceberg has no maintenance that `append` needs."""

    def facts(self) -> dict[str, Any]:
        return {"live files": len(self.table.inspect.files()), "files on disk": on_disk(self.folder)}


def on_disk(folder: Path) -> int:
    return sum(1 for p in (folder / "lake").rglob("*") if p.is_file())


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and CPU milliseconds of *work*."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000


def marks(times: list[tuple[float, float]]) -> dict[str, dict[str, float]]:
    medians = {}
    for mark in sorted({*MARKS, len(times)}):
        near = times[max(0, mark - 1 - WINDOW // 2) : mark + WINDOW // 2]
        if len(times) >= mark and near:
            medians[str(mark)] = {
                "wall ms": round(statistics.median(w for w, _ in near), 2),
                "cpu ms": round(statistics.median(c for _, c in near), 2),
            }
    return medians


def run(commits: int, peer_seconds: float, rows: int) -> dict[str, Any]:
    schema = table_schema(parse_plan(PLAN), "purchase_sword")
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as name:
        folders = Path(name, "ours"), Path(name, "peer")
        for folder in folders:
            folder.mkdir()
        ours, peer = Ours(folders[0], schema), Peer(folders[1], schema)
        times: dict[str, list[tuple[float, float]]] = {"questlog": [], "pyiceberg": []}
        peer_time = 0.0
        facts: dict[str, dict[str, Any]] = {"questlog": {}, "pyiceberg": {}}
        for number in range(1, commits + 1):
            data = batch(schema, number, rows)
            times["questlog"].append(timed(lambda data=data: ours.append(data)))  # type: ignore[misc]
            ours.after()
            if peer_time < peer_seconds:
                times["pyiceberg"].append(timed(lambda data=data: peer.append(data)))  # type: ignore[misc]
                peer_time += times["pyiceberg"][-1][0] / 1000
            if number in MARKS:
                facts["questlog"][str(number)] = ours.facts()
                if len(times["pyiceberg"]) == number:
                    facts["pyiceberg"][str(number)] = peer.facts()
                print(number, {name: marks(t).get(str(number)) for name, t in times.items()}, flush=True)
        assert ours.facts()["rows"] == commits * rows
        facts["questlog"]["when the last files replaced may be deleted"] = ours.settle()
        maintenance = round(ours.maintenance_seconds * 1000 / commits, 2)
        ours.tables.close()
    return {
        "commits": {name: len(t) for name, t in times.items()},
        "rows per commit": rows,
        "at": {name: marks(t) for name, t in times.items()},
        "ratio to the 10th": {
            name: {mark: round(m["wall ms"] / marks(t)["10"]["wall ms"], 2) for mark, m in marks(t).items()}
            for name, t in times.items()
        },
        "maintenance ms per commit": maintenance,
        "tables": facts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--peer-seconds", type=float, default=600.0, help="time limit of the peer")
    parser.add_argument("--rows", type=int, default=100)
    options = parser.parse_args()
    result = run(options.commits, options.peer_seconds, options.rows)
    ratios = result["ratio to the 10th"]["questlog"]
    goals = [Goal(f"time of the {mark}th commit against the 10th", 2, ratios[mark], at_most=True) for mark in ratios]
    save("commit", result, goals[1:])


if __name__ == "__main__":
    main()
