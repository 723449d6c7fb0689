"""The collector's pages about itself: liveness, readiness and metrics."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from questlog.collector.figures import Figures, read_figures
from questlog.collector.http import Request, Respond, Response, refuse
from questlog.collector.metrics import Counts, Gauge, exposition
from questlog.errors import QuestlogError

PROBE_SECONDS = 0.5
"""How long a probe's result is reused: each probe costs an fsync."""
FIGURES_SECONDS = 3.0
"""How long a response waits for the project's figures; Prometheus gives up after 10 s."""
logger = logging.getLogger("questlog.collector")


def healthz(request: Request, respond: Respond) -> None:
    """Alive: this worker's event loop runs."""
    respond(Response(200, b'{"status":"alive"}'))


class Readiness:
    """Ready: a record was just written to the log and read back."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._response: Response | None = None
        self._until = 0.0
        self._due: list[Respond] = []

    def __call__(self, request: Request, respond: Respond) -> None:
        """Respond once the log has been probed; requests that arrive meanwhile share the result."""
        if self._response is not None and time.monotonic() < self._until:
            respond(self._response)
            return
        self._due.append(respond)
        if len(self._due) == 1:
            _keep(asyncio.get_running_loop().create_task(self._run_probe()))

    async def _run_probe(self) -> None:
        try:
            await asyncio.to_thread(self._probe)
            self._response = Response(200, b'{"status":"ready"}')
        except QuestlogError as error:
            wait = b"retry-after: %d" % error.retry_after_seconds
            self._response = refuse(503, "unavailable", str(error), error.hint, wait)
        except Exception:
            logger.exception("stage=collect path=/readyz")
            self._response = refuse(503, "unavailable", "the log could not be probed", "questlog doctor")
        self._until = time.monotonic() + PROBE_SECONDS
        due, self._due = self._due, []
        for respond in due:
            respond(self._response)


class MetricsPage:
    """`/metrics`: the counts of all workers, and the project's figures."""

    def __init__(self, counts: Counts, root: Path, log_folder: Path) -> None:
        self._counts, self._root, self._log_folder = counts, root, log_folder
        self._figures = Figures()
        self._until = 0.0
        self._renewal: asyncio.Task[None] | None = None

    def __call__(self, request: Request, respond: Respond) -> None:
        """Respond with figures that are at most `Figures.keep_seconds` old."""
        _keep(asyncio.get_running_loop().create_task(self._respond(respond)))

    async def _respond(self, respond: Respond) -> None:
        try:
            await self._renew_in_time()
            kind, text = await asyncio.to_thread(lambda: exposition(self._counts, self._gauges()))
            respond(Response(200, text, kind))
        except Exception:
            logger.exception("stage=collect path=/metrics")
            respond(refuse(500, "internal", "the figures could not be read", "questlog status"))

    async def _renew_in_time(self) -> None:
        """Renew the project's figures; omit them if that takes more than `FIGURES_SECONDS`."""
        if time.monotonic() > self._until and self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
        if self._renewal is not None:
            await asyncio.wait({self._renewal}, timeout=FIGURES_SECONDS)

    async def _renew(self) -> None:
        if not self._figures.usable_when_late:
            self._figures = Figures()
        try:
            self._figures = await read_figures(self._root)
        except Exception:
            self._figures = Figures()
            logger.exception("stage=collect path=/metrics")
        finally:
            self._until = time.monotonic() + self._figures.keep_seconds
            self._renewal = None

    def _gauges(self) -> list[Gauge]:
        log_bytes = float(self._log_bytes())
        return [("questlog_log_bytes", [({}, log_bytes)]), *self._figures.gauges]

    def _log_bytes(self) -> int:
        try:
            with os.scandir(self._log_folder) as files:
                return sum(file.stat().st_blocks * 512 for file in files)
        except FileNotFoundError:
            return 0


_tasks: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """Hold a reference to a task until it ends: the event loop does not."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
