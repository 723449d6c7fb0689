"""Puts a collector's process together: listening sockets, one worker process for each, and what runs in a worker."""

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
from dataclasses import dataclass
from pathlib import Path

from questlog.collector.app import Collector, warm_up
from questlog.collector.endpoints import ENDPOINTS, Pages
from questlog.collector.http.commit import Committer
from questlog.collector.http.server import HttpServer, listen
from questlog.collector.keys.authenticator import LOOPBACK, Authenticator
from questlog.collector.keys.rate import Rates
from questlog.collector.keys.store import open_keys
from questlog.collector.metrics import REFUSED, Counts, Metrics
from questlog.collector.openapi import document_page
from questlog.collector.pages import MetricsPage, Readiness
from questlog.errors import QuestlogError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.settings import find_project
from questlog.supervise import Part

PORT_WAIT_SECONDS = 2.0
"""How long a port may be in use before that is an error."""
logger = logging.getLogger("questlog.collector")


def collector_workers(
    folder: Path, host: str, port: int, workers: int
) -> tuple[dict[str, Part], dict[str, Sequence[socket.socket]]]:
    """Return a collector's workers by name, and the listening sockets that each serves.

    The sockets are bound before any worker starts, so that an address in use is reported at once.
    """
    project = find_project(folder)
    keys, local = open_keys(project.data).read(), host in LOOPBACK
    if not keys and not local:
        raise QuestlogError(
            f"without a write key the collector listens on localhost only, not on {host}",
            hint="questlog key create game creates a key; --host 127.0.0.1 needs none",
        )
    sockets = _listen_when_free(host, port, workers)
    name, bound = sockets[0].getsockname()[:2]
    logger.info("collecting for %s on http://%s:%d", project.root, f"[{name}]" if ":" in name else name, bound)
    if not keys:
        logger.info("no write keys configured: accepting events from localhost only")
    rates, counts = Rates(), Counts([each.path for each in ENDPOINTS], workers)
    names = ["collector"] if workers == 1 else [f"collector {number}" for number in range(1, workers + 1)]
    listening: dict[str, Sequence[socket.socket]] = {name: [each] for name, each in zip(names, sockets, strict=True)}
    parts: dict[str, Part] = {
        name: Worker(listening[name], rates, Metrics(counts, number), local) for number, name in enumerate(names)
    }
    return parts, listening


def _listen_when_free(host: str, port: int, workers: int) -> list[socket.socket]:
    """Return listening sockets; the workers of a collector that was just killed may hold the port a moment longer."""
    deadline = time.monotonic() + PORT_WAIT_SECONDS
    logged = False
    while True:
        try:
            return listen(host, port, workers)
        except QuestlogError as error:
            in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
            if not in_use or time.monotonic() > deadline:
                raise
        if not logged:
            logger.info("port %d is in use; waiting up to %g s for it to become free", port, PORT_WAIT_SECONDS)
            logged = True
        time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Worker:
    """Serves in its own process. Everything here exists before the fork; rates and counts are shared memory."""

    sockets: Sequence[socket.socket]
    rates: Rates
    metrics: Metrics
    open_without_keys: bool

    def __call__(self, folder: Path, stop: threading.Event, ready: Callable[[], None]) -> None:
        """Serve until *stop* is set; call *ready* when it begins."""
        pipeline = open_pipeline(folder)
        _ = pipeline.plan
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
        if sys.platform != "win32":
            import uvloop

            new_loop = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._serve(pipeline, stop, ready))
        logger.info("stopped; every event that was acknowledged is durable")

    async def _serve(self, pipeline: Pipeline, stop: threading.Event, ready: Callable[[], None]) -> None:
        project, metrics = pipeline.project, self.metrics
        committer = Committer(pipeline.log, metrics.appended)
        pages = Pages(
            readyz=Readiness(pipeline.log.probe),
            metrics=MetricsPage(metrics.counts, project.root, project.log_folder),
            openapi=document_page(),
        )
        authenticator = Authenticator(project.data, self.rates, open_without_keys=self.open_without_keys)
        collector = Collector(lambda: pipeline.plan, committer, authenticator, metrics, pages)
        server = HttpServer(collector, refused=lambda status: metrics.answered(REFUSED, status, 0))
        warm_up(pipeline.plan)
        gc.collect()
        gc.freeze()  # what exists now stays: scanning it again would stop the loop for 30 ms each time
        ready()
        await server.serve(self.sockets, stop.is_set)
        await committer.close()
