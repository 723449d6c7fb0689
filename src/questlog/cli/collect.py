"""`questlog collect`: events over HTTP, each answered once it is durable."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from questlog.messages import start_logging
from questlog.settings import COLLECT_PORT, find_project


@click.command()
@click.option("--host", help="Address to listen on.  [default: the setting collect_host, 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"0 picks a free one.  [default: the setting collect_port, or {COLLECT_PORT}]",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Number of worker processes.")
@click.option("--json", "as_json", is_flag=True, help="Write log messages as lines of JSON.")
@click.pass_obj
def collect(folder: Path, host: str | None, port: int | None, workers: int, as_json: bool) -> None:
    """Accept events over HTTP until Ctrl-C. After a 2xx response the events are on disk and in the very next query.

    \b
    curl -d '{"event_type": "join_guild", "guild": "owls"}' http://127.0.0.1:8090/v1/events

    A worker that dies is restarted. `questlog land` moves the events into tables; `questlog up --collect` runs
    both the collector and the lander.
    """
    from questlog.collector.serve import collector_workers
    from questlog.supervise import Supervisor, forked

    start_logging(as_json)
    settings = find_project(folder).settings
    host = settings.collect_host if host is None else host
    port = (settings.collect_port or COLLECT_PORT) if port is None else port
    code = Supervisor(forked(folder, *collector_workers(folder, host, port, workers))).run()
    if code:
        sys.exit(code)
