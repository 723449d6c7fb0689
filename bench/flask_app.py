"""Benchmark an instrumented Flask app against the same app without questlog, in requests per second, in the same run.

The swords game runs on three servers, without its two questlog lines (bare) or with them (durable, background). All
variants run at once; 64 closed-loop clients in one process send requests to them in turn, for several rounds, and the
ratio is taken within each round, so other load on the machine affects all alike. The server has one core, the clients
the other. The number of 200s is compared with an SQL count afterwards.
A fourth variant, described, shows where the time goes: it builds the event but does not record it.
Run: .venv/bin/python bench/flask_app.py [--rounds 7] [--seconds 3] [--server NAME ...] [--save]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

import questlog

HERE = Path(__file__).parent
SWORDS = HERE.parent / "examples" / "swords"
GUNICORN = ["-m", "gunicorn", "game:app", "--no-control-socket", "--bind=127.0.0.1:{port}", "--workers=1"]
GRANIAN = [
    "-m",
    "granian",
    "--interface=wsgi",
    "--host=127.0.0.1",
    "--port={port}",
    "--workers=1",
    "--no-ws",
    "game:app",
]
SERVERS = {
    "development server": (["-m", "flask", "--app=game", "run", "--port={port}"], True),
    "gunicorn, 64 threads": ([*GUNICORN, "--threads=64"], False),
    "gunicorn, 8 threads": ([*GUNICORN, "--threads=8"], False),
    "granian, 64 blocking threads": ([*GRANIAN, "--blocking-threads=64"], False),
    "granian, 8 blocking threads": ([*GRANIAN, "--blocking-threads=8"], False),
}
"""Arguments, and whether each request needs a new connection (as with the development server)."""

GOALS = {"durable": 0.85, "background": 0.95}
VARIANTS = ("bare", "described", *GOALS)
NOT_RECORDED = '\napp.extensions["questlog"].record = lambda batch: None\n'


class Server:
    """One variant of the game on one kind of server."""

    def __init__(self, folder: Path, arguments: list[str], variant: str) -> None:
        folder.mkdir()
        shutil.copy(SWORDS / "plan.toml", folder)
        lines = (SWORDS / "game.py").read_text("utf-8").splitlines(keepends=True)
        game = "".join(line for line in lines if variant != "bare" or "# questlog" not in line)
        if variant in GOALS:
            game = game.replace("Questlog(app)", f'Questlog(app, ack="{variant}")')
        (folder / "game.py").write_text(game + (NOT_RECORDED if variant == "described" else ""), "utf-8")
        self.folder, self.acknowledged, self.rates = folder, 0, list[dict[str, Any]]()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        argv = [sys.executable, *(part.format(port=self.port) for part in arguments)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")}
        self.process = subprocess.Popen(
            [*_pin(0), *argv], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", "/nowhere")
                if connection.getresponse().status == 404:
                    return
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        raise SystemExit(f"the server in {self.folder} does not answer")

    def measure(self, seconds: float, close: bool) -> dict[str, Any]:
        """Send for some seconds; return the requests per second and the server's CPU time per request."""
        argv = [sys.executable, str(HERE / "clients.py"), str(self.port), "/purchase_a_sword", f"--seconds={seconds}"]
        before = self._used()
        ran = subprocess.run(
            [*_pin(1), *argv, *(["--close"] if close else [])], check=True, capture_output=True, text=True
        )
        used = [now - then for now, then in zip(self._used(), before, strict=True)]
        report: dict[str, Any] = json.loads(ran.stdout)
        answered = report.pop("statuses")
        if set(answered) != {"200"}:
            raise SystemExit(f"not every response was 200: {answered}")
        self.acknowledged += answered["200"]
        report["cpu us"] = used[0] / answered["200"] * 1e6
        if not close:  # the counts of ended threads are lost
            report["context switches"] = used[1] / answered["200"]
        return report

    def _used(self) -> tuple[float, int]:
        """Return CPU seconds and context switches of the server, its workers and their threads."""
        ticks = switches = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
                    for status in stat.parent.glob("task/*/status"):
                        lines = status.read_text().splitlines()
                        switches += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
            except OSError:
                continue
        return ticks / os.sysconf("SC_CLK_TCK"), switches

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


def _pin(core: int) -> list[str]:
    return ["taskset", "-c", str(core)] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else []


def measure(folder: Path, kind: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure the three variants on one kind of server, in turn."""
    arguments, close = SERVERS[kind]
    servers = {variant: Server(folder / variant, arguments, variant) for variant in VARIANTS}
    measured: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    try:
        for server in servers.values():
            server.measure(1, close)  # warm up
        for number in range(rounds):
            for variant in VARIANTS if number % 2 else reversed(VARIANTS):
                measured[variant].append(servers[variant].measure(seconds, close))
            line = "  ".join(f"{v} {measured[v][-1]['per second']:.0f}" for v in VARIANTS)
            print(f"{kind}: {line}", file=sys.stderr, flush=True)
    finally:
        for server in servers.values():
            server.close()
    for variant in GOALS:
        (stored,) = questlog.open(str(servers[variant].folder)).sql("select count(*) from sword_purchases").rows()[0]
        if stored != servers[variant].acknowledged:
            raise SystemExit(f"{kind}, {variant}: {servers[variant].acknowledged} acknowledged, {stored} stored")
    return report(measured, close)


def report(measured: dict[str, list[dict[str, Any]]], close: bool) -> dict[str, Any]:
    """Return medians of each variant, and the ratios to the bare app within each round."""
    summary: dict[str, Any] = {"connections": "one a request" if close else "kept alive"}
    for variant, rounds in measured.items():
        summary[variant] = {name: round(statistics.median(each[name] for each in rounds), 2) for name in rounds[0]}
    for variant in VARIANTS[1:]:
        pairs = zip(measured[variant], measured["bare"], strict=True)
        ratios = sorted(ours["per second"] / bare["per second"] for ours, bare in pairs)
        summary[f"{variant} / bare"] = {
            "median": round(statistics.median(ratios), 3), "min": round(ratios[0], 3), "max": round(ratios[-1], 3)
        }  # fmt: skip
        summary[f"{variant} / bare, cpu"] = round(summary["bare"]["cpu us"] / summary[variant]["cpu us"], 3)
    return summary


def goals(results: dict[str, Any]) -> list[common.Goal]:
    return [
        common.Goal(
            f"requests/s of the instrumented app against the bare one, {kind}, `{variant}`",
            goal,
            results[kind][f"{variant} / bare"]["median"],
        )
        for kind in list(SERVERS)[:2]
        for variant, goal in GOALS.items()
        if kind in results
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--server", choices=SERVERS, action="append")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {"clients": 64}
    for kind in options.server or SERVERS:
        with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as name:
            results[kind] = measure(Path(name), kind, options.rounds, options.seconds)
    if options.save:
        common.save("flask_app", results, goals(results))
    else:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
