"""Keeps the cluster's tables fast, beside the stream: merges small files, forgets old snapshots and old ids.

Nothing here is judged by who does it alone. What a driver that was frozen in the middle does when it wakes is harmless
whenever it does it: docs/decisions/0010.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from questlog.errors import LanderFenced
from questlog.land import StopSignal
from questlog.land.spark.states import KEPT, SWEPT, last, outlived, stated

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

EVERY_SECONDS = 600.0
KEEP_SECONDS = 3600.0
"""How long a query that runs still finds its snapshot's files; each commit writes the list of all that are kept."""
SWEEP_SECONDS = 86_400.0
ORPHAN_SECONDS = 3 * 86_400.0
"""What no snapshot knows is garbage only when no commit under way can still be writing it."""

logger = logging.getLogger("questlog.upkeep")


class SparkUpkeep:
    """Does one table's upkeep at a time with Iceberg's own procedures.

    When a table was last kept stands in its own snapshots: a lander that runs now and then does it too. *hours* says
    how long ids count, *forgotten* is told up to when they are gone.
    """

    def __init__(
        self,
        tables: SparkTables,
        hours: Callable[[], float],
        forgotten: Callable[[int], None] = lambda _: None,
        *,
        every: float = EVERY_SECONDS,
        keep: float = KEEP_SECONDS,
    ) -> None:
        self._tables, self._hours, self._forgotten = tables, hours, forgotten
        self._every, self._keep = every, keep
        self._next: list[tuple[str, str]] = []
        self._due = time.monotonic()

    def step(self, stop: StopSignal | None = None) -> bool:
        """Do the upkeep of one table if it is time for it; return whether others may be due.

        Trouble only puts it off; a stop ends it between two procedures.
        """
        if not self._next:
            if time.monotonic() < self._due:
                return False
            self._due = time.monotonic() + self._every
            self._next = self._round()
        if self._next:
            self._try(*self._next.pop(), stop or threading.Event())
        return bool(self._next)

    def _round(self) -> list[tuple[str, str]]:
        tables = self._tables
        tables.forget()  # one may have been dropped and made again
        try:
            names = tables.names()
        except Exception as error:
            logger.warning("stage=upkeep put off: %s", _first_line(error))
            return []
        return [*((tables.namespace, name) for name in names), (tables.own, "progress")]

    def _try(self, namespace: str, name: str, stop: StopSignal) -> None:
        started = time.monotonic()
        try:
            if not self._is_due(namespace, name):
                return
            self.keep(namespace, name, stop)
        except LanderFenced as error:  # the next batch says it, and ends this lander
            logger.warning("stage=upkeep table=%s left to another lander: %s", name, error)
        except Exception as error:
            if not stop.is_set():
                logger.warning("stage=upkeep table=%s put off: %s", name, _first_line(error))
        else:
            logger.info("stage=upkeep table=%s ms=%d", name, (time.monotonic() - started) * 1000)

    def _is_due(self, namespace: str, name: str) -> bool:
        """Return whether the table was kept long enough ago, and there is something to do."""
        metadata = self._tables.metadata(namespace, name)
        if not metadata.get("snapshots"):
            return False
        if not _is_past(last(metadata, KEPT) or _first_ms(metadata), self._every):
            return False
        return _has_changed(metadata) or _sweep_is_due(metadata) or bool(outlived(metadata, _before(self._keep)))

    def keep(self, namespace: str, name: str, stop: StopSignal | None = None) -> None:
        """1 forget ids  2 merge files  3 merge manifests  4 say the state again  5 forget snapshots  6 orphans."""
        table, tables = f"table => '{namespace}.{name}'", self._tables
        stop = stop or threading.Event()
        metadata = tables.metadata(namespace, name)
        sweep = _sweep_is_due(metadata)
        if _has_changed(metadata):
            if (namespace, name) == (tables.own, "progress"):
                self._forgotten(tables.forget_ids(self._hours()))
            self._call(stop, f"rewrite_data_files({table})")
            self._call(stop, f"rewrite_manifests({table})")
        if sweep or _has_changed(metadata):
            swept = _before(0) if sweep else last(metadata, SWEPT) or _first_ms(metadata)
            tables.carry(namespace, name, {KEPT: _before(0), SWEPT: swept})
        if old := outlived(tables.metadata(namespace, name), _before(self._keep)):
            # these and no others: by age alone Iceberg would take what holds the position
            ids, never = ", ".join(map(str, old)), "older_than => TIMESTAMP '1970-01-02 00:00:00'"
            self._call(stop, f"expire_snapshots({table}, snapshot_ids => array({ids}), {never})")
        if sweep:
            # by the clock that dates the files: were ours days ahead, a file of a commit under way would look old
            before = tables.written_ms(namespace, name) - int(ORPHAN_SECONDS * 1000)
            self._call(stop, f"remove_orphan_files({table}, older_than => TIMESTAMP '{_spelled(before)}')")

    def _call(self, stop: StopSignal, procedure: str) -> None:
        if stop.is_set():
            raise InterruptedError
        self._tables.spark.sql(f"call lake.system.{procedure}").collect()


def _has_changed(metadata: Any) -> bool:
    """Return whether anything was committed after upkeep's own word, which is its last."""
    _, state = stated(metadata)[-1]
    return state is None or KEPT not in state


def _sweep_is_due(metadata: Any) -> bool:
    return _is_past(last(metadata, SWEPT) or _first_ms(metadata), SWEEP_SECONDS)


def _first_ms(metadata: Any) -> int:
    return int(metadata["snapshots"][0]["timestamp-ms"])


def _before(seconds: float) -> int:
    return time.time_ns() // 1_000_000 - int(seconds * 1000)


def _is_past(since_ms: int, seconds: float) -> bool:
    """Return whether that is *seconds* ago; what lies ahead of our clock tells nothing, and counts as past."""
    return not 0 <= _before(0) - since_ms < seconds * 1000


def _spelled(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
