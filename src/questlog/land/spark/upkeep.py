"""Keeps the cluster's tables fast: merges small files, forgets old snapshots, never a position."""

from __future__ import annotations

import datetime as dt
import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from questlog.land.spark.tables import SparkTables

EVERY_SECONDS = 600.0
KEEP_SECONDS = 3600.0
"""How long a query that runs still finds the files of its snapshot."""
ORPHAN_SECONDS = 3 * 86_400.0
"""What no snapshot knows is garbage only when no commit under way can still be writing it."""

logger = logging.getLogger("questlog.upkeep")


class SparkUpkeep:
    """Does one table's upkeep at a time, between two batches, with Iceberg's own procedures."""

    def __init__(self, tables: SparkTables, *, every: float = EVERY_SECONDS, keep: float = KEEP_SECONDS) -> None:
        self._tables, self._every, self._keep = tables, every, keep
        self._next: list[tuple[str, str]] = []
        self._due = time.monotonic() + every

    def step(self) -> None:
        """Do the upkeep of one table if it is time for a round; trouble with it only puts it off."""
        if not self._next:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + self._every
            tables = self._tables
            self._next = [(tables.namespace, name) for name in tables.names()] + [(tables.own, "progress")]
        namespace, name = self._next.pop()
        started = time.monotonic()
        try:
            self.keep(namespace, name)
        except Exception as error:
            logger.warning("stage=upkeep table=%s put off: %s", name, str(error).splitlines()[0])
        else:
            logger.info("stage=upkeep table=%s ms=%d", name, (time.monotonic() - started) * 1000)

    def keep(self, namespace: str, name: str) -> None:
        """1 merge files  2 merge manifests  3 carry the position forward  4 only then forget snapshots  5 orphans."""
        self._call("rewrite_data_files", f"table => '{namespace}.{name}'")
        self._call("rewrite_manifests", f"table => '{namespace}.{name}'")
        self._tables.carry(namespace, name)
        self._call(
            "expire_snapshots",
            f"table => '{namespace}.{name}', older_than => TIMESTAMP '{_ago(self._keep)}', retain_last => 1",
        )
        self._call(
            "remove_orphan_files", f"table => '{namespace}.{name}', older_than => TIMESTAMP '{_ago(ORPHAN_SECONDS)}'"
        )

    def _call(self, procedure: str, arguments: str) -> None:
        self._tables.spark.sql(f"call lake.system.{procedure}({arguments})").collect()


def _ago(seconds: float) -> str:
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%d %H:%M:%S")
