"""What a collector answers about itself: alive, ready, and how much."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from questlog.collector.figures import gauges
from questlog.collector.http import Request, Respond, Response, refuse
from questlog.collector.metrics import Counts, Gauge, exposition
from questlog.errors import QuestlogError

PROBE_SECONDS = 0.5
"""A probe costs an fsync: who asks more often hears the last answer."""
STATUS_SECONDS = 2.0
FIGURES_SECONDS = 3.0
"""How long an answer waits for the project's figures; Prometheus gives up after 10 s."""
CLUSTER_STATUS_SECONDS = 10.0
"""It asks Kafka and Presto, from every machine that is scraped."""
_STATUS_TIMEOUT = 60.0
logger = logging.getLogger("questlog.collector")


def healthz(request: Request, respond: Respond) -> None:
    """Alive: this worker's loop answers."""
    respond(Response(200, b'{"status":"alive"}'))


class Readiness:
    """Ready: the log takes and gives back what is written to it, tried now and not remembered from before."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._response: Response | None = None
        self._until = 0.0
        self._asking: list[Respond] = []

    def __call__(self, request: Request, respond: Respond) -> None:
        """Answer a request once the log was tried."""
        if self._response is not None and time.monotonic() < self._until:
            respond(self._response)
            return
        self._asking.append(respond)
        if len(self._asking) == 1:
            _keep(asyncio.get_running_loop().create_task(self._try()))

    async def _try(self) -> None:
        try:
            await asyncio.to_thread(self._probe)
            self._response = Response(200, b'{"status":"ready"}')
        except QuestlogError as error:
            wait = b"retry-after: %d" % max(1, round(error.retry_after or 5))
            self._response = refuse(503, "unavailable", str(error), error.hint, wait)
        except Exception:
            logger.exception("stage=collect path=/readyz")
            self._response = refuse(503, "unavailable", "the log could not be tried", "questlog doctor")
        self._until = time.monotonic() + PROBE_SECONDS
        asking, self._asking = self._asking, []
        for respond in asking:
            respond(self._response)


class MetricsPage:
    """`/metrics`: what all workers counted, and the project's own figures as `questlog status` finds them."""

    def __init__(self, counts: Counts, root: Path, log_folder: Path) -> None:
        self._counts, self._root, self._log_folder = counts, root, log_folder
        self._status: dict[str, Any] = {}
        self._until = 0.0
        self._asking: asyncio.Task[None] | None = None

    def __call__(self, request: Request, respond: Respond) -> None:
        """Answer a request, with figures at most `STATUS_SECONDS` old."""
        _keep(asyncio.get_running_loop().create_task(self._answer(respond)))

    async def _answer(self, respond: Respond) -> None:
        try:
            await self._look()
            kind, text = await asyncio.to_thread(lambda: exposition(self._counts, self._gauges()))
            respond(Response(200, text, kind))
        except Exception:
            logger.exception("stage=collect path=/metrics")
            respond(refuse(500, "internal", "the figures could not be read", "questlog status"))

    async def _look(self) -> None:
        """Bring the project's figures up to date, or leave them out when that takes too long."""
        if time.monotonic() > self._until and self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._renew())
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=FIGURES_SECONDS)

    async def _renew(self) -> None:
        if not self._is_cluster():  # servers elsewhere take their time: half a minute old is better than none
            self._status = {}
        try:
            self._status = await self._ask()
        except Exception:
            self._status = {}
            logger.exception("stage=collect path=/metrics")
        finally:
            self._until = time.monotonic() + (CLUSTER_STATUS_SECONDS if self._is_cluster() else STATUS_SECONDS)
            self._asking = None

    def _is_cluster(self) -> bool:
        return self._status.get("profile") == "cluster"

    async def _ask(self) -> dict[str, Any]:
        """Return what `questlog status` says; in a process of its own, for shaping a long tail would stop this one."""
        command = [sys.executable, "-m", "questlog", "-C", str(self._root), "status", "--json"]
        process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-3, stdin=-3)
        try:
            out, _ = await asyncio.wait_for(process.communicate(), _STATUS_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            return {}
        try:
            found: dict[str, Any] = json.loads(out)
        except ValueError:
            return {}
        return found

    def _gauges(self) -> list[Gauge]:
        found: list[Gauge] = [("questlog_log_bytes", "Bytes of the log on disk.", [({}, float(self._log_bytes()))])]
        return found + gauges(self._status)

    def _log_bytes(self) -> int:
        try:
            with os.scandir(self._log_folder) as files:
                return sum(file.stat().st_blocks * 512 for file in files)
        except FileNotFoundError:
            return 0


_tasks: set[asyncio.Task[None]] = set()


def _keep(task: asyncio.Task[None]) -> None:
    """Hold a task until it ends: the loop itself does not."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
