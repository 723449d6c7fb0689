"""Compare the cluster profile with the pipeline that tutorials build, on the same servers, one after the other.

Parts: `api` sends requests to the game's API as fast as it responds; `land` lands a full topic and counts the CPU time
of every process started for it; `fresh` sends at a constant rate and queries Presto continuously; `start` measures from
nothing to the first row. Each part saves its result in --parts; `save` combines them.
Run: .venv/bin/python bench/cluster.py [api] [land] [fresh] [start] [save] [--parts FOLDER]
With QUESTLOG_STACK a running stack is used (not by `start`).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import Goal, quantiles, save
from sides import HERE, SIDES, TABLES, Ours, PrestoError, Side, Tutorial, wait_for

from questlog.stack import Stack


@contextlib.contextmanager
def servers() -> Iterator[Stack]:
    """Return a running stack: the existing one, or a new one."""
    if "QUESTLOG_STACK" in os.environ:
        yield Stack(os.environ["QUESTLOG_STACK"])
        return
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as folder,
        Stack(folder, ports="free") as stack,
    ):
        yield stack


# -- requests per second --------------------------------------------------------------------------


def measure_api(stack: Stack, folder: Path, rounds: int = 5, seconds: float = 3) -> dict[str, Any]:
    """Send requests to both games in turn, with 64 clients."""
    sides = [kind(stack, folder / kind.name) for kind in SIDES]
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    latest: dict[str, Any] = {}
    with contextlib.ExitStack() as running:
        for side in sides:
            running.enter_context(side.running(*side.app()))
            wait_for(side.answers, f"the game of {side.name}")
        for number in range(rounds + 1):
            for side in sides:
                words = [str(HERE / "clients.py"), str(side.port), "/purchase_a_sword", f"--seconds={seconds}"]
                words += ["--close"] if side.close else []
                ran = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True)
                report = json.loads(ran.stdout)
                if set(report["statuses"]) != {"200"}:
                    raise SystemExit(f"{side.name}: not every response was 200: {report['statuses']}")
                if number:  # the first round warms up
                    rates[side.name].append(report["per second"])
                    latest[side.name] = {k: v for k, v in report.items() if k != "statuses"}
    return {name: {**latest[name], "per second": round(statistics.median(each))} for name, each in rates.items()}


# -- landed events per CPU second -----------------------------------------------------------------


def measure_land(kind: type[Side], stack: Stack, folder: Path, count: int) -> dict[str, Any]:
    """Land a full topic from a cold start; then an almost empty one, to measure the start alone."""
    report: dict[str, Any] = {"events": count}
    for events, key in ((count, "with start"), (2, "start alone")):
        side = kind(stack, folder / key)
        side.fill(events)
        began = time.monotonic()
        process = side.land_all()
        process.wait(240)
        report[key] = {"seconds": round(time.monotonic() - began, 1), "cpu seconds": round(process.cpu_seconds, 1)}
        counted = sum(side.count(table) for table in TABLES)
        if counted != events:
            raise SystemExit(f"{side.name}: {events} sent, Presto counts {counted}")
    whole, start = report["with start"]["cpu seconds"], report["start alone"]["cpu seconds"]
    report["events per cpu second, with start"] = round(count / whole)
    report["events per cpu second, net of it"] = round(count / (whole - start))
    return report


# -- acknowledged to visible ----------------------------------------------------------------------


class Players:
    """Requests at a constant rate, each sent when it is due; records when each was acknowledged."""

    def __init__(self, side: Side, rate: int, seconds: float, threads: int = 8) -> None:
        self._side, self._rate, self.total = side, rate, int(rate * seconds)
        self.acknowledged: list[float] = []
        self._threads = [threading.Thread(target=self._play, args=(n, threads)) for n in range(threads)]

    def start(self) -> None:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def _play(self, first: int, step: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._side.port, timeout=30)
        for number in range(first, self.total, step):
            time.sleep(max(0.0, self._began + number / self._rate - time.monotonic()))
            connection.request("GET", "/purchase_a_sword", headers={"User-Agent": f"player-{number}"})
            answer = connection.getresponse()
            answer.read()
            self.acknowledged.append(time.monotonic())  # one bytecode, so no other thread can interrupt it
            if answer.status != 200:
                raise SystemExit(f"{self._side.name} responded {answer.status}")
            if self._side.close:
                connection.close()
        connection.close()


def measure_fresh(kind: type[Side], stack: Stack, folder: Path, rate: int, seconds: float) -> dict[str, Any]:
    """Return how long acknowledged events stayed invisible: the k-th is visible once Presto counts k."""
    side = kind(stack, folder)
    processes = [*side.app(), side.stream()]
    with side.running(*processes):
        wait_for(side.answers, f"the game of {side.name}")
        warm = Players(side, rate, 10)
        warm.start()
        wait_for(lambda: _counted(side, [], []) == warm.total, "the stream to begin", 180)
        players, lags, failed, query_seconds = Players(side, rate, seconds), list[float](), list[str](), list[float]()
        players.start()
        deadline = time.monotonic() + seconds + 90
        while len(lags) < players.total and time.monotonic() < deadline:
            asked = time.monotonic()
            count, now = _counted(side, failed, query_seconds) - warm.total, time.monotonic()
            times = sorted(players.acknowledged)
            lags += [now - when for when in times[len(lags) : max(count, len(lags))]]
            time.sleep(max(0.0, 0.25 - (time.monotonic() - asked)))
        memory = {"app and stream mb": round(sum(process.sample() for process in processes))}
    if len(lags) < players.total:
        raise SystemExit(f"{side.name}: {players.total - len(lags)} events never became visible")
    return {
        "events per second": rate, "events": players.total, "polls": len(query_seconds) + len(failed),
        "polls failed": len(failed), "failures": sorted(set(failed))[:3], "query s": quantiles(query_seconds),
        "acknowledged to visible s": quantiles(lags), **memory,
    }  # fmt: skip


def _counted(side: Side, failed: list[str], query_seconds: list[float]) -> int:
    asked = time.monotonic()
    try:
        count = side.count("sword_purchases")
    except PrestoError as error:
        if "does not exist" not in str(error):
            failed.append(str(error)[:120])
        return 0
    query_seconds.append(time.monotonic() - asked)
    return count


# -- cold start ----------------------------------------------------------------------------------


def measure_start(kind: type[Side], folder: Path) -> dict[str, Any]:
    """Start the servers and the pipeline, send one event, wait for its row, then measure the memory."""
    began = time.monotonic()
    with Stack(folder / "stack", ports="free") as stack:
        up = time.monotonic()
        side = kind(stack, folder / "side")
        processes = [*side.app(), side.stream()]
        with side.running(*processes):
            wait_for(side.answers, "the game")
            connection = http.client.HTTPConnection("127.0.0.1", side.port, timeout=30)
            connection.request("GET", "/purchase_a_sword")
            connection.getresponse().read()
            wait_for(lambda: _counted(side, [], []) == 1, "the first row", 180)
            row = time.monotonic()
            ours = sum(process.sample() for process in processes)
            theirs = sum(server.memory_mb for server in stack.status())
    return {
        "servers up s": round(up - began, 1), "first row s": round(row - began, 1), "servers mb": round(theirs),
        "app and stream mb": round(ours), "memory mb": round(ours + theirs),
    }  # fmt: skip


# -- the run --------------------------------------------------------------------------------------


def goals(parts: dict[str, Any]) -> list[Goal]:
    """Return the goals of the measured parts."""
    theirs, ours = Tutorial.name, Ours.name
    measured = []
    if (api := parts.get("api")) is not None:
        ratio = api[ours]["per second"] / api[theirs]["per second"]
        measured.append(Goal("cluster: the game's requests/s against the tutorial's", 10, round(ratio, 2)))
    if (land := parts.get("land")) is not None:
        for key, label in (("with start", "including the start"), ("net of it", "excluding the start")):
            ratio = land[ours][f"events per cpu second, {key}"] / land[theirs][f"events per cpu second, {key}"]
            question = f"cluster: landed events per CPU second against the tutorial's, {label}"
            measured.append(Goal(question, 2, round(ratio, 2)))
    if (fresh := parts.get("fresh")) is not None:
        lags = {name: side["acknowledged to visible s"] for name, side in fresh.items()}
        for key in ("p50", "p99"):
            ratio = lags[theirs][key] / lags[ours][key]
            measured.append(
                Goal(f"cluster: acknowledged to visible in Presto, {key}, times faster", 3, round(ratio, 2))
            )
        failed = fresh[ours]["polls failed"]
        measured.append(Goal("cluster: queries that failed while events were landed", 0, failed, "", at_most=True))
    if (start := parts.get("start")) is not None:
        ratio = start[ours]["first row s"] / start[theirs]["first row s"]
        question = "cluster: seconds from nothing to the first row against the tutorial's"
        measured.append(Goal(question, 1, round(ratio, 2), "", at_most=True))
    return measured


def measure(part: str, side: type[Side] | None, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one part, of one side or of both."""
    chosen = [side] if side else list(SIDES)
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as name:
        folder = Path(name)
        if part == "start":
            return {kind.name: measure_start(kind, folder / kind.name) for kind in chosen}
        with servers() as stack:
            if part == "api":
                return measure_api(stack, folder)
            if part == "land":
                return {kind.name: measure_land(kind, stack, folder / kind.name, options.events) for kind in chosen}
            seconds, rate = options.seconds, options.rate
            return {kind.name: measure_fresh(kind, stack, folder / kind.name, rate, seconds) for kind in chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*PARTS, "save"], default=[*PARTS, "save"])
    parser.add_argument("--side", choices=[kind.name for kind in SIDES], help="Measure only one side.")
    parser.add_argument("--parts", type=Path, default=Path(tempfile.gettempdir()) / "questlog-bench-cluster")
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=200)
    options = parser.parse_args()
    options.parts.mkdir(exist_ok=True, parents=True)
    side = next((kind for kind in SIDES if kind.name == options.side), None)
    for part in PARTS:
        if part in options.what:
            path = options.parts / f"{part}.json"
            earlier = json.loads(path.read_text()) if path.exists() and side else {}
            path.write_text(json.dumps({**earlier, **measure(part, side, options)}, indent=2))
            print(f"{part}: {path.read_text()}", flush=True)
    if "save" in options.what:
        parts = {
            part: json.loads(path.read_text()) for part in PARTS if (path := options.parts / f"{part}.json").exists()
        }
        save("cluster", parts, goals(parts))


PARTS = ("api", "land", "fresh", "start")

if __name__ == "__main__":
    main()
