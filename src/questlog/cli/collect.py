"""`questlog collect`: events over HTTP, each answered once it is durable."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.up import Part, Supervisor, start_logging
from questlog.errors import QuestlogError

if TYPE_CHECKING:
    from questlog.collector.keys.rate import Rates
    from questlog.collector.metrics import Metrics
    from questlog.pipeline import Pipeline

DEFAULT_PORT = 8090
TAKEN_SECONDS = 2.0
"""How long a port may be in use before that is an error."""
logger = logging.getLogger("questlog.collector")


@click.command()
@click.option("--host", help="The address to listen on.  [default: the setting collect_host, 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"0 takes a free one.  [default: the setting collect_port, or {DEFAULT_PORT}]",
)
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="How many processes.")
@click.option("--json", "as_json", is_flag=True, help="Write the messages as lines of JSON.")
@click.pass_obj
def collect(folder: Path, host: str | None, port: int | None, workers: int, as_json: bool) -> None:
    """Take events over HTTP until Ctrl-C. A 2xx answer means: they are on disk, and in the very next query.

    \b
    curl -d '{"event_type": "join_guild", "guild": "owls"}' http://127.0.0.1:8090/v1/events

    A worker that dies is started again. What is collected lands with `questlog land`; `questlog up --collect` runs
    the collector and the lander.
    """
    from questlog.settings import find_project

    start_logging(as_json)
    settings = find_project(folder).settings
    host = settings.collect_host if host is None else host
    port = (settings.collect_port or DEFAULT_PORT) if port is None else port
    code = Supervisor(folder, *collector_parts(folder, host, port, workers)).run()
    if code:
        sys.exit(code)


def collector_parts(
    folder: Path, host: str, port: int, workers: int
) -> tuple[dict[str, Part], dict[str, Sequence[socket.socket]]]:
    """Return a collector's worker processes by name, and the sockets they serve.

    The address is taken before any of them starts, so that a fault shows at once.
    """
    from questlog.collector.keys.gate import LOOPBACK
    from questlog.collector.keys.rate import Rates
    from questlog.collector.keys.store import KeyStore
    from questlog.collector.metrics import Counts, Metrics
    from questlog.collector.openapi import ENDPOINTS
    from questlog.settings import find_project

    project = find_project(folder)
    keys, here = KeyStore(project.data / "keys.db").read(), host in LOOPBACK
    if not keys and not here:
        raise QuestlogError(
            f"without a write key the collector listens on this machine only, not on {host}",
            hint="questlog key create game makes a key; --host 127.0.0.1 needs none",
        )
    sockets = _listen_when_free(host, port, workers)
    name, taken = sockets[0].getsockname()[:2]
    logger.info("collecting for %s on http://%s:%d", project.root, f"[{name}]" if ":" in name else name, taken)
    if not keys:
        logger.info("no write key: whoever is on this machine may send, and nobody else can")
    rates, counts = Rates(), Counts([each.path for each in ENDPOINTS], workers)
    doors: dict[str, Sequence[socket.socket]] = {
        "collector" if workers == 1 else f"collector {number}": [each] for number, each in enumerate(sockets, 1)
    }
    parts: dict[str, Part] = {
        name: partial(run_collector, door, rates, Metrics(counts, number), here)
        for number, (name, door) in enumerate(doors.items())
    }
    return parts, doors


def _listen_when_free(host: str, port: int, workers: int) -> list[socket.socket]:
    """Return sockets that listen; a predecessor that was killed a moment ago has workers that end only now."""
    from questlog.collector.http.server import listen

    patience = time.monotonic() + TAKEN_SECONDS
    told = False
    while True:
        try:
            return listen(host, port, workers)
        except QuestlogError as error:
            taken = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if not taken or time.monotonic() > patience:
                raise
        if not told:
            logger.info("port %d is in use; waiting up to %g s for whoever ends there", port, TAKEN_SECONDS)
            told = True
        time.sleep(0.05)


def run_collector(
    sockets: Sequence[socket.socket],
    rates: Rates,
    metrics: Metrics,
    open_without_keys: bool,
    folder: Path,
    stop: threading.Event,
    ready: Callable[[], None],
) -> None:
    """Serve on *sockets* until *stop*."""
    from questlog.pipeline import open_pipeline

    pipeline = open_pipeline(folder)
    _ = pipeline.plan
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if sys.platform != "win32":
        import uvloop

        new_loop = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_serve(pipeline, sockets, rates, metrics, open_without_keys, stop, ready))
    logger.info("stopped; everything answered is durable")


async def _serve(
    pipeline: Pipeline,
    sockets: Sequence[socket.socket],
    rates: Rates,
    metrics: Metrics,
    open_without_keys: bool,
    stop: threading.Event,
    ready: Callable[[], None],
) -> None:
    from questlog.collector.app import Collector, Page, warm_up
    from questlog.collector.http.commit import Committer
    from questlog.collector.http.server import Server
    from questlog.collector.keys.gate import Gate
    from questlog.collector.metrics import REFUSED
    from questlog.collector.pages import MetricsPage, Readiness, openapi
    from questlog.collector.script import PATH, script

    project = pipeline.project
    committer = Committer(pipeline.log, metrics.appended)
    pages: dict[str, Page] = {
        "/readyz": Readiness(pipeline.log.probe),
        "/metrics": MetricsPage(metrics.counts, project.root, project.log_folder),
        "/openapi.json": openapi(),
        PATH: script,
    }
    gate = Gate(project.data, rates, open_without_keys=open_without_keys)
    collector = Collector(lambda: pipeline.plan, committer, gate, metrics, pages)
    server = Server(collector, refused=lambda status: metrics.answered(REFUSED, status, 0))
    warm_up(pipeline.plan)
    gc.collect()
    gc.freeze()  # what is here stays: looking through it again and again would stop the loop for 30 ms each time
    ready()
    await server.serve(sockets, stop.is_set)
    await committer.close()
