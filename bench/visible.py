"""Benchmark the time from an event's acknowledgement to its first query, at a constant rate, while a lander works.

A process logs events one by one at the rate, `questlog up` lands them, and this process queries continuously.
An event is visible when the first query that counts it has returned; the process has run a query before.
The comparison is the bare table, in which the same events are visible once the lander has committed them.
Run: .venv/bin/python bench/visible.py [--seconds 30] [--rate 1000]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

from common import Goal, quantiles, save

from questlog.accept import accept
from questlog.lake.state import load_state
from questlog.pipeline import open_pipeline

PLAN = '[events.miss]\n[events.hit.fields]\ndamage = "int"\nweapon = "string"\n'


def send(folder: str, rate: int, seconds: float, times: Any, sent: Synchronized[int]) -> None:
    """Log events at *rate*; record when each was acknowledged."""
    pipeline = open_pipeline(folder)
    started = time.monotonic()
    for number in range(int(rate * seconds)):
        wait = started + number / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        body = b'{"event_type": "hit", "damage": %d, "weapon": "axe"}' % number
        records = accept([body], pipeline.plan, received_ms=time.time_ns() // 1_000_000).records
        pipeline.log.append(records)
        times[number] = time.monotonic()
        sent.value = number + 1


def follow(ask: Any, times: Any, total: int, sent: Synchronized[int], deadline: float, pause: float) -> list[float]:
    """Query until all events are visible; return the milliseconds from each acknowledgement to its first query."""
    lags: list[float] = []
    while len(lags) < total and time.monotonic() < deadline:
        count = ask()
        now = time.monotonic()
        lags += [max(0.0, now - times[number]) * 1000 for number in range(len(lags), min(count, sent.value))]
        time.sleep(pause)
    return lags


def measure(rate: int, seconds: float) -> dict[str, Any]:
    """Return the lags of queries and of the bare tables."""
    total = int(rate * seconds)
    context = multiprocessing.get_context("spawn")
    times, sent = context.Array("d", total, lock=False), context.Value("i", 0)
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as folder:
        Path(folder, "plan.toml").write_text(PLAN)
        up = subprocess.Popen([sys.executable, "-m", "questlog", "-C", folder, "up"], stderr=subprocess.DEVNULL)
        sender = context.Process(target=send, args=(folder, rate, seconds, times, sent))
        try:
            pipeline = open_pipeline(folder)
            queries = 0

            def ask() -> int:
                nonlocal queries
                queries += 1
                return int(pipeline.sql("select count(*) from hit").rows()[0][0])

            def landed() -> int:
                state = load_state(pipeline.project.catalog)
                return state.tables["hit"].rows if "hit" in state.tables else 0

            pipeline.log.append(accept([b'{"event_type": "miss"}'], pipeline.plan, received_ms=1).records)
            ask()  # start.py measures the imports of a process's first query
            sender.start()
            deadline = time.monotonic() + seconds + 60
            tables: list[float] = []
            watcher = threading.Thread(target=lambda: tables.extend(follow(landed, times, total, sent, deadline, 0.02)))
            watcher.start()
            lags = follow(ask, times, total, sent, deadline, 0.0)
            sender.join()
            watcher.join()
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
    assert len(lags) == total, f"{total - len(lags)} events never became visible"
    return {
        "events per second": rate,
        "events": total,
        "queries": queries,
        "acknowledged to visible ms": quantiles(lags),
        "acknowledged to landed ms": quantiles(tables),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=int, default=1000)
    options = parser.parse_args()
    result = measure(options.rate, options.seconds)
    p99 = result["acknowledged to visible ms"]["p99"]
    question = f"acknowledged to visible, 99th percentile, {options.rate:,} events/s"
    save("visible", result, [Goal(question, 100, p99, "ms", at_most=True)])


if __name__ == "__main__":
    main()
