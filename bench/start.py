"""Benchmark a cold query, a cold start, and the memory of `questlog up` at 1,000 events/s.

Cold query: a new process of `questlog sql`, over landed files and a tail. The peers, in turn with it in the same run:
a Python process that only imports DuckDB and counts the same files, and one that uses PyIceberg.
Cold start: the game server and `questlog up` start in an empty project; the clock stops when a `questlog sql` that was
started after the first response shows its row.
Run: .venv/bin/python bench/start.py [--runs 15] [--seconds 60]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from common import Goal, save

from questlog.accept import accept
from questlog.lake.state import load_state
from questlog.pipeline import Pipeline, open_pipeline

SWORDS = Path(__file__).parents[1] / "examples" / "swords"
QUESTLOG = [sys.executable, "-m", "questlog"]
DUCKDB = "import duckdb, sys; print(duckdb.sql(f'select count(*) from read_parquet({sys.argv[1:]})').fetchall())"
PYICEBERG = (
    "import sys; from pyiceberg.catalog.sql import SqlCatalog;"
    "c = SqlCatalog('questlog', uri=f'sqlite:///{sys.argv[1]}/catalog.db', warehouse=f'{sys.argv[1]}/lake');"
    "print(c.load_table(('questlog', 'join_guild')).scan().to_arrow().num_rows)"
)


def send(pipeline: Pipeline, count: int) -> None:
    body = b'{"event_type": "join_guild", "player_id": "ann"}'
    now = time.time_ns() // 1_000_000
    pipeline.log.append(accept([body] * count, pipeline.plan, received_ms=now).records)


def seconds(argv: list[str], expect: str) -> float:
    """Return the duration of a command; it must print *expect*."""
    started = time.perf_counter()
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    took = time.perf_counter() - started
    assert expect in ran.stdout, ran.stdout
    return took


def cold_queries(folder: Path, runs: int) -> dict[str, Any]:
    """Query a project of 20,000 landed events and 100 in the tail."""
    shutil.copy(SWORDS / "plan.toml", folder)
    pipeline = open_pipeline(folder)
    for _ in range(4):
        send(pipeline, 5_000)
        with pipeline.lander() as lander:
            lander.drain()
    files = list(load_state(pipeline.project.catalog).tables["join_guild"].files)
    statement = "select count(*) as n from join_guild"
    query = [*QUESTLOG, "-C", str(folder), "sql", statement]
    commands = {
        "questlog sql, all landed": (query, "20000"),
        "python with duckdb alone": ([sys.executable, "-c", DUCKDB, *files], "20000"),
        "python with pyiceberg alone": ([sys.executable, "-c", PYICEBERG, str(pipeline.project.data)], "20000"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (argv, expect) in commands.items():
            times[name].append(seconds(argv, expect))
    send(pipeline, 100)
    name = "questlog sql, with a tail of 100"
    times[name] = [seconds(query, "20100") for _ in range(runs)]
    medians: dict[str, Any] = {name: round(statistics.median(each), 3) for name, each in times.items()}
    base = medians["python with duckdb alone"]
    medians["ratio to duckdb alone"] = round(medians["questlog sql, all landed"] / base, 2)
    medians["ratio to pyiceberg alone"] = round(
        medians["questlog sql, all landed"] / medians["python with pyiceberg alone"], 2
    )
    return medians


def first_row(folder: Path) -> float:
    """Return the seconds from the start of both processes to the first visible row."""
    for name in ("plan.toml", "game.py"):
        shutil.copy(SWORDS / name, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    flask = [sys.executable, "-m", "flask", "--app", "game", "run", "--port", str(port)]
    processes = [
        subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for argv in (flask, [*QUESTLOG, "up"])
    ]
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/join_guild", timeout=5).read()
                break
            except OSError:
                time.sleep(0.005)
        seconds([*QUESTLOG, "-C", str(folder), "sql", "select count(*) as n from join_guild"], "1")
        return time.perf_counter() - started
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def memory_of_up(folder: Path, duration: float) -> dict[str, Any]:
    """Return the maximum memory (PSS, MB) and the CPU share of `questlog up` and its children at 1,000 events/s."""
    shutil.copy(SWORDS / "plan.toml", folder)
    pipeline = open_pipeline(folder)
    up = subprocess.Popen([*QUESTLOG, "-C", str(folder), "up"], stderr=subprocess.DEVNULL)
    stop = threading.Event()

    def feed() -> None:
        started, sent = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - started) * 1000) - sent
            if due > 0:
                send(pipeline, due)
                sent += due
            stop.wait(0.01)

    feeder = threading.Thread(target=feed)
    feeder.start()
    sizes = []
    try:
        process = psutil.Process(up.pid)
        deadline = time.monotonic() + duration
        while time.monotonic() < deadline:
            family = [process, *process.children(recursive=True)]
            sizes.append(sum(each.memory_full_info().pss for each in family) / 1e6)
            time.sleep(0.5)
        cpu = sum(sum(each.cpu_times()[:2]) for each in family)
    finally:
        stop.set()
        feeder.join()
        up.send_signal(signal.SIGTERM)
        up.wait(60)
    return {
        "seconds": duration,
        "most pss mb": round(max(sizes), 1),
        "last pss mb": round(sizes[-1], 1),
        "cpu seconds per second": round(cpu / duration, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as name:
        folders = [Path(name, part) for part in ("cold", "memory", *(f"first{n}" for n in range(5)))]
        for folder in folders:
            folder.mkdir()
        cold = cold_queries(folders[0], options.runs)
        starts = [first_row(folder) for folder in folders[2:]]
        memory = memory_of_up(folders[1], options.seconds)
    first = {"median": round(statistics.median(starts), 3), "max": round(max(starts), 3)}
    save(
        "start",
        {"cold question s": cold, "first visible row s": first, "questlog up at 1,000 events/s": memory},
        [
            Goal("`questlog sql` from a cold start to its result", 0.6, cold["questlog sql, all landed"], "s", True),
            Goal("start of game and `questlog up` to the first visible row", 1.5, first["median"], "s", True),
            Goal("memory of `questlog up` at 1,000 events/s", 250, memory["most pss mb"], "MB", True),
        ],
    )


if __name__ == "__main__":
    main()
