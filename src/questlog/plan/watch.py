"""A plan file that may be edited while it is in use."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from questlog.errors import PlanError
from questlog.plan import Plan
from questlog.plan.load import load_plan

logger = logging.getLogger("questlog.plan")


class PlanFile:
    """A plan file, read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._current: tuple[tuple[int, int, int], Plan] | None = None

    def read(self) -> Plan:
        """Return the plan; of a file that has become invalid, the last valid one."""
        stamp = self._stamp()
        current = self._current
        if current is not None and current[0] == stamp:
            return current[1]
        with self._lock:
            if self._current is None:
                self._current = (stamp, load_plan(self._path))
            elif self._current[0] != stamp:
                plan = self._current[1]
                try:
                    plan = load_plan(self._path)
                except PlanError as error:
                    logger.error("%s is invalid; still using the previous version: %s", self._path.name, error)
                self._current = (stamp, plan)
            return self._current[1]

    def _stamp(self) -> tuple[int, int, int]:
        """Return what changes when the file does."""
        try:
            status = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_size, status.st_ino)
