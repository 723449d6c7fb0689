"""Benchmark the collector's durable events per second against other servers that answer a POST on the same machine.

One server at a time runs on one core and wrk on the other, in turn, for several rounds; ratios are taken within each
round. The peers: a plain Flask development server that passes each event to kafka-python's `send()` and does not wait
(librdkafka's mock broker receives it), a Granian RSGI app that does nothing, and nginx's `return 204`. Our count of 2xx
responses is compared with an SQL count afterwards. Then a constant rate at half of the maximum (bench/steady.py).
Needs wrk and nginx (Debian packages), and `pip install kafka-python==2.0.2 confluent-kafka` for the peer.
Run: .venv/bin/python bench/collect.py [--rounds 3] [--seconds 3]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from common import Goal, save

import questlog

HERE = Path(__file__).parent
PLAN = """
[events.purchase_sword.fields]
sword = "string"
price = "decimal(12,2)"
currency = { enum = ["gold", "usd"] }
level = "int"
position = "struct<x:double,y:double>"
campaign = "string"
device = "string"
"""
EVENT = {
    "event_type": "purchase_sword", "event_time": "2026-11-24T10:00:00.123Z", "player_id": "player-004711",
    "session_id": "0191f2a4-7d1c-7cc1-a3f4-0a1b2c3d4e5f", "sequence": 42, "sword": "vorpal blade of the ancients",
    "price": 12.5, "currency": "gold", "level": 17, "position": {"x": 103.25, "y": -7.5},
    "campaign": "winter-festival-2026-second-week", "device": "console; firmware 11.02; region eu-west",
}  # fmt: skip
BATCH = 100
FLASK = """
import sys
from flask import Flask, request
from kafka import KafkaProducer
app = Flask(__name__)
producer = KafkaProducer(bootstrap_servers=sys.argv[2], api_version=(2, 5))
@app.post("/v1/events")
def take():
    producer.send("events", request.get_data())
    return "OK"
app.run("127.0.0.1", int(sys.argv[1]), threaded=True)
"""
BROKER = """
import sys, time
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": "unused", "test.mock.num.brokers": 1})
print([f"{b.host}:{b.port}" for b in producer.list_topics(timeout=10).brokers.values()][0], flush=True)
sys.stdin.read()
"""
GRANIAN = """
async def app(scope, protocol):
    await protocol()
    protocol.response_empty(204, [])
"""
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {folder}/body; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}
"""


class Server:
    """A server on core 0."""

    def __init__(self, folder: Path, argv: list[str], port: int) -> None:
        self.port, self.acknowledged = port, 0
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", "0", *argv], cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise SystemExit(f"{argv[:3]} does not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status > 0
        except OSError:
            return False
        finally:
            connection.close()

    def load(self, script: Path, clients: int, seconds: float) -> float:
        """Return the requests per second of wrk on core 1; every response must be 2xx."""
        argv = ["taskset", "-c", "1", "wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "-s", str(script)]
        output = subprocess.run(
            [*argv, f"http://127.0.0.1:{self.port}/v1/events"], capture_output=True, text=True
        ).stdout
        if "Non-2xx" in output or "Socket errors" in output:
            raise SystemExit(output)
        done, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec: +([\d.]+)", output)
        assert done is not None and rate is not None, output
        self.acknowledged += int(done[1])
        return float(rate[1])

    def close(self) -> None:
        if self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def servers(folder: Path, stack: ExitStack) -> dict[str, Server]:
    """Start all servers; only the one that receives requests is busy."""
    broker = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", BROKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert broker.stdout is not None and broker.stdin is not None
    stack.callback(broker.stdin.close)
    address = broker.stdout.readline().strip()
    servers = {}
    for name in ("questlog", "flask", "granian", "nginx"):
        home, port = folder / name, free_port()
        home.mkdir()
        (home / "plan.toml").write_text(PLAN)
        (home / "peer.py").write_text(FLASK if name == "flask" else GRANIAN)
        (home / "nginx.conf").write_text(NGINX.format(folder=home, port=port))
        argv = {
            "questlog": [sys.executable, "-m", "questlog", "collect", "--port", str(port)],
            "flask": [sys.executable, "peer.py", str(port), address],
            "granian": [sys.executable, "-m", "granian", "--interface=rsgi", "--host=127.0.0.1", f"--port={port}",
                        "--workers=1", "--no-ws", "peer:app"],
            "nginx": ["nginx", "-p", str(home), "-c", str(home / "nginx.conf")],
        }[name]  # fmt: skip
        servers[name] = stack.enter_context(Server(home, argv, port))
    return servers


def scripts(folder: Path) -> dict[str, Path]:
    """Write the bodies and scripts for wrk."""
    event = json.dumps(EVENT, separators=(",", ":"))
    bodies = {"single": event, "batch": "[" + ",".join([event] * BATCH) + "]"}
    scripts = {}
    for name, body in bodies.items():
        (folder / f"{name}.json").write_text(body)
        scripts[name] = folder / f"{name}.lua"
        scripts[name].write_text(
            f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = [==[{body}]==]\n'
        )
    return scripts


CELLS = {
    "questlog, 64 clients": ("questlog", "single", 64),
    "questlog, 256 clients": ("questlog", "single", 256),
    "questlog, batches of 100, 16 clients": ("questlog", "batch", 16),
    "flask + kafka-python, 64 clients": ("flask", "single", 64),
    "granian no-op, 64 clients": ("granian", "single", 64),
    "granian no-op, 256 clients": ("granian", "single", 256),
    "nginx 204, 64 clients": ("nginx", "single", 64),
}


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """Return the requests per second of each cell in each round, then the result of the constant rate."""
    rates: dict[str, list[float]] = {name: [] for name in CELLS}
    with tempfile.TemporaryDirectory(dir=os.environ.get("QUESTLOG_BENCH_DIR")) as name, ExitStack() as stack:
        folder = Path(name)
        running, sent = servers(folder, stack), scripts(folder)
        for server in running.values():
            server.load(sent["single"], 8, 1)  # warm up
        batches = 0
        for _ in range(rounds):
            for cell, (server, kind, clients) in CELLS.items():
                before = running[server].acknowledged
                rates[cell].append(running[server].load(sent[kind], clients, seconds))
                batches += (running[server].acknowledged - before) if kind == "batch" else 0
            print({cell: round(each[-1]) for cell, each in rates.items()}, file=sys.stderr, flush=True)
        ours = running["questlog"]
        half = statistics.median(rates["questlog, 64 clients"]) / 2
        steady = subprocess.run(
            ["taskset", "-c", "1", sys.executable, str(HERE / "steady.py"), str(ours.port), "/v1/events",
             str(folder / "single.json"), f"--rate={half}", f"--seconds={3 * seconds:g}"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        constant = json.loads(steady.stdout)
        ours.close()
        needed = ours.acknowledged - batches + BATCH * batches + constant["answered"]
        (stored,) = questlog.open(folder / "questlog").sql("select count(*) from purchase_sword").rows()[0]
        if stored < needed:  # wrk drops the responses that are in flight at its end
            raise SystemExit(f"{needed} acknowledged, {stored} stored")
    return {"bytes per event": len(json.dumps(EVENT)), "rates": rates, "constant rate": constant}


def report(result: dict[str, Any]) -> tuple[dict[str, Any], list[Goal]]:
    rates = result.pop("rates")
    flask = rates["flask + kafka-python, 64 clients"]

    def ratio(ours: str, peer: list[float], times: int = 1) -> float:
        return round(statistics.median(times * a / b for a, b in zip(rates[ours], peer, strict=True)), 2)

    single, many, batch = list(CELLS)[:3]
    goals = [
        Goal("durable events/s against Flask + kafka-python, single, 64 clients", 40, ratio(single, flask)),
        Goal("durable events/s against Flask + kafka-python, batches of 100", 200, ratio(batch, flask, BATCH)),
        Goal("requests/s against a Granian no-op, 64 clients", 0.5, ratio(single, rates["granian no-op, 64 clients"])),
        Goal("requests/s against a Granian no-op, 256 clients", 0.5, ratio(many, rates["granian no-op, 256 clients"])),
        Goal(
            "latency at half of the maximum rate, 99th percentile",
            10,
            result["constant rate"]["p99 ms"],
            "ms",
            at_most=True,
        ),
    ]
    medians = {name: round(statistics.median(each)) for name, each in rates.items()}
    more = {"requests per second": medians, "against nginx": ratio(single, rates["nginx 204, 64 clients"])}
    return {**more, **result, "rounds": {name: [round(r) for r in each] for name, each in rates.items()}}, goals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    for tool in ("wrk", "nginx", "taskset"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: apt-get install wrk nginx-light util-linux")
    result, goals = report(measure(options.rounds, options.seconds))
    save("collect", result, goals)


if __name__ == "__main__":
    main()
