"""`questlog demo`: a real game server, real requests, an analyst's queries, and a check of every result."""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from questlog.accept import accept
from questlog.cli.sql import aligned
from questlog.errors import NotInstalled, QuestlogError
from questlog.pipeline import Pipeline, open_pipeline

STATEMENTS = (
    "show tables",
    "describe sword_purchases",
    "select * from sword_purchases",
    "select host as host, count(*) as count from join_guild group by host order by count desc, host",
    "select count(*) as count from join_guild",
)
ROUNDS = (
    ("user1.comcast.com", "/purchase_a_sword", 25),
    ("user1.comcast.com", "/join_guild", 25),
    ("foo.gmail.com", "/join_guild", 25),
)
MEASURED = 20


@click.command()
@click.option("--folder", default="questlog-demo", show_default=True, help="Folder for the demo's project.")
def demo(folder: str) -> None:
    """Start the swords game, send it requests, run five queries on its events, and check the results."""
    if importlib.util.find_spec("flask") is None:
        raise NotInstalled("the demo's game is a Flask app", hint="pip install 'questlog[flask]'")
    target = Path(folder).resolve()
    _prepare(target)
    pipeline = open_pipeline(target)
    port = _free_port()
    server = _start(target, port)
    try:
        _wait(port, server)
        click.echo(f"The swords game is running on http://127.0.0.1:{port} (process {server.pid}).")
        _send_traffic(port)
        lags = _measure(pipeline, port)
        with pipeline.lander() as lander:
            lander.drain()
        _send_bad(pipeline)
        _ask(pipeline)
    finally:
        server.terminate()
        server.wait(10)
    click.echo(
        f"\nAn event was visible in SQL {statistics.median(lags):.0f} ms after its acknowledgement"
        f" (median of {len(lags)}; {max(lags):.0f} ms at most)."
    )
    click.echo(f"The data stays in {target}. Try next:\n")
    for line in (
        "sql 'select event_type, count(*) from events group by 1'",
        "sql                 an SQL shell that completes tables and columns",
        "status              where every event is",
        "tail                the latest events, then new ones as they arrive",
        "plan show           the events that the plan declares",
    ):
        click.echo(f"  {_command()} -C {os.path.relpath(target)} {line}")


def _command() -> str:
    """Return the command that runs questlog here: after `make demo` it is not on the PATH."""
    script, on_path = Path(sys.executable).with_name("questlog"), shutil.which("questlog")
    if on_path is not None and Path(on_path) == script:
        return "questlog"
    return os.path.relpath(script) if script.exists() else f"{sys.executable} -m questlog"


def _prepare(target: Path) -> None:
    """Copy the example game; delete the data of an earlier demo, and nothing else."""
    if target.exists() and not (target / "game.py").exists() and any(target.iterdir()):
        raise QuestlogError(f"{target} holds something else", hint="questlog demo --folder DIR")
    shutil.rmtree(target / ".questlog", ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).parents[1]
    installed, checkout = package / "swords", package.parents[1] / "examples" / "swords"
    source = installed if installed.is_dir() else checkout
    for name in ("game.py", "plan.toml"):
        shutil.copyfile(source / name, target / name)


def _start(target: Path, port: int) -> subprocess.Popen[bytes]:
    log = (target / "server.log").open("wb")
    command = [sys.executable, "-m", "flask", "--app", "game", "run", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")}
    return subprocess.Popen(command, cwd=target, stdout=log, stderr=log, env=environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise QuestlogError("the game's server stopped", hint="see server.log in the demo's folder")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise QuestlogError("the game's server did not answer within 20 s", hint="see server.log")


def _send_traffic(port: int) -> None:
    bench = shutil.which("ab")
    click.echo("Sending 75 requests with " + ("ApacheBench." if bench else "a Python client (ab is not installed)."))
    for host, path, count in ROUNDS:
        if bench:
            subprocess.run(
                [bench, "-q", "-n", str(count), "-H", f"Host: {host}", f"http://127.0.0.1:{port}{path}"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        else:
            for _ in range(count):
                _get(port, path, host)


def _get(port: int, path: str, host: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host, "User-Agent": "questlog-demo", "Accept": "*/*"})
    response = connection.getresponse()
    response.read()
    connection.close()
    if response.status != 200:
        raise QuestlogError(f"GET {path} answered {response.status}", hint="see server.log")


def _measure(pipeline: Pipeline, port: int) -> list[float]:
    """Return the milliseconds from each acknowledgement to the first query that sees the event.

    One query runs before that, as in a dashboard: the first query of a process imports the engine.
    """
    lags = []
    pipeline.sql("select count(*) from events")
    for count in range(1, MEASURED + 1):
        _get(port, "/", "localhost")
        acknowledged = time.monotonic()
        while pipeline.sql('select count(*) from "default"').rows()[0][0] < count:
            if time.monotonic() - acknowledged > 10:
                raise QuestlogError("an acknowledged event was not visible within 10 s")
        lags.append((time.monotonic() - acknowledged) * 1000)
    return lags


def _send_bad(pipeline: Pipeline) -> None:
    bad = [b'{"event_type": "purchase_sword", "price": ', b'{"event_type": "purchase_swor"}']
    accepted = accept(bad, pipeline.plan, received_ms=time.time_ns() // 1_000_000)
    pipeline.log.append(accepted.records)


def _ask(pipeline: Pipeline) -> None:
    answers: dict[str, Any] = {}
    for statement in STATEMENTS:
        result = pipeline.sql(statement)
        answers[statement] = result
        click.echo(f"\nquestlog> {statement};")
        click.echo(_brief(result.arrow()))
    bad = pipeline.sql("select reason, detail, raw_event from quarantine order by reason")
    click.echo("\nTwo events that do not fit the plan are in quarantine, not lost:\n")
    click.echo(aligned(bad.arrow()))
    _check("sword purchases", lambda: len(answers[STATEMENTS[2]].rows()), 25)
    _check(
        "guild joins by host",
        lambda: dict(answers[STATEMENTS[3]].rows()),
        {"user1.comcast.com": 25, "foo.gmail.com": 25},
    )
    _check("guild joins", lambda: answers[STATEMENTS[4]].rows()[0][0], 50)
    _check("reasons", lambda: [row[0] for row in bad.rows()], ["not_json", "unknown_event_type"])


def _brief(table: pa.Table) -> str:
    """Return a table as text, or only its first rows and some columns if it is wide."""
    columns = ["event_time", "host", "user_agent", "currency"]
    if table.num_columns <= len(columns):
        return aligned(table)
    return aligned(table.select(columns).slice(0, 3)) + (
        f"the first 3 of {table.num_rows} rows, {len(columns)} of {table.num_columns} columns"
    )


def _check(what: str, actual: Callable[[], Any], expected: Any) -> None:
    if actual() != expected:
        raise QuestlogError(f"wrong answer for {what}: {actual()!r} instead of {expected!r}")
    click.echo(f"correct: {what} = {expected}")
