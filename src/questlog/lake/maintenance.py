"""Table maintenance in bounded steps: merge small files, delete unused files, forget old ids.

Every step is one commit or can be repeated, so a crash loses only the work of that step.
Snapshots and metadata files need no maintenance: each commit drops the oldest ones.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from questlog.lake.clock import WatchedClock
from questlog.lake.guard import inside
from questlog.lake.iceberg import IcebergTables, add_garbage
from questlog.lake.state import NAMESPACE, check_epoch, transaction
from questlog.lake.version import Version

logger = logging.getLogger("questlog.land")

GRACE_SECONDS = 900.0
"""How long a file is kept after the last snapshot that needs it: a running query may still be reading it.

Nothing is deleted for as long after the clock was set, because the age of a file is not known then.
"""
TARGET_BYTES = 64 << 20
MERGE_FILES = 8
SWEEP_SECONDS = 86_400.0
SEEN_LIMIT = 10_000_000
"""The largest number of ids to keep, about 1 GB of catalog. Beyond it the oldest are forgotten early."""
_DELETE_FILES = 200
_FORGET_IDS = 5_000
_TIERS = " + ".join(f"(bytes >= {TARGET_BYTES >> shift})" for shift in (9, 6, 3))
_CROWDED = f"""
select table_name, day, min(bytes), max(bytes) from questlog_files where bytes < {TARGET_BYTES}
group by table_name, day, {_TIERS} having count(*) >= {MERGE_FILES} limit 1"""
_CLOSED = f"""
select table_name, day, min(bytes), max(bytes) from questlog_files f where bytes < {TARGET_BYTES}
and day < (select max(day) from questlog_files where table_name = f.table_name)
group by table_name, day having count(*) > 1 limit 1"""


class Maintenance:
    """Keeps commits, files and lookups fast. One per lander, whose *heartbeat* it sends during long steps."""

    def __init__(
        self,
        tables: IcebergTables,
        heartbeat: Callable[[], None],
        *,
        grace_seconds: float = GRACE_SECONDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tables, self._heartbeat = tables, heartbeat
        self._grace_ms = int(grace_seconds * 1000)
        self._clock = WatchedClock(tables.state, tables.epoch, wall=clock, monotonic=monotonic)
        self._swept = -SWEEP_SECONDS
        self._seen: int | None = None

    def step(self) -> bool:
        """Do the next step: at most a sweep, a merge and a few deletions. Return whether there was anything to do."""
        swept = self._sweep_if_due()
        merged = self._merge()
        return self._delete() or merged or swept

    def _merge(self) -> bool:
        """Merge the files of one crowded tier of a day, or all remaining small files of a past day.

        Tiers differ by a factor of 8 in bytes, and 8 files of a tier become one. So a row is rewritten once per
        tier, and a day never has more than 8 files per tier.
        """
        state = self._tables.state
        group = state.execute(_CROWDED).fetchone() or state.execute(_CLOSED).fetchone()
        if group is None:
            return False
        table, day, smallest, largest = group
        chosen: dict[str, tuple[str, int]] = {}
        total = 0
        for path, manifest, size, sequence in state.execute(
            "select path, manifest, bytes, sequence from questlog_files"
            " where table_name = ? and day is ? and bytes between ? and ? order by bytes, sequence",
            (table, day, smallest, largest),
        ):
            chosen[path] = (manifest, sequence)
            total += size
            if total >= TARGET_BYTES and len(chosen) > 1:
                break
        in_order = sorted(chosen, key=lambda path: chosen[path][1])
        self._tables.replace(table, {path: chosen[path][0] for path in in_order}, day, self._heartbeat)
        return True

    def _delete(self) -> bool:
        """Delete some files whose grace period is over: the file first and its row after it, so that none is missed."""
        state, tables = self._tables.state, self._tables
        if self.clock_was_set():
            return False
        before = self._clock.now_ms() - self._grace_ms
        paths: list[str] = []
        live: set[str | None] = set()
        for (table,) in state.execute("select distinct table_name from questlog_garbage").fetchall():
            version = tables.version(table)
            oldest = _oldest_sequence(version) if version is not None else 1 << 62
            rows = state.execute(
                "select path from questlog_garbage g where table_name = ?1 and last_sequence < ?2 and since_ms <= ?3"
                " and not exists (select 1 from questlog_files where table_name = ?1 and path = g.path) limit ?4",
                (table, oldest, before, _DELETE_FILES - len(paths)),
            )
            paths += [path for (path,) in rows]
            if len(tables.roots) > 1:  # an earlier version counted live files as garbage under another spelling
                live |= self._named(table, version)[0]
        for path in paths:
            name = inside(path, tables.roots)
            if name is None:
                logger.error("stage=maintenance kept %s: it is outside the lake folder", path)
            elif name not in live:
                Path(path).unlink(missing_ok=True)
        if paths:
            with transaction(state) as connection:
                check_epoch(connection, tables.epoch)
                connection.executemany("delete from questlog_garbage where path = ?", [(p,) for p in paths])
        return bool(paths)

    def _sweep_if_due(self) -> bool:
        """Find files that no version names, left by a commit that crashed; they get a grace period, too.

        If a table has more such files than live ones, nothing is deleted: the catalog was lost or is an old copy.
        """
        now = self._clock.now_ms() / 1000
        if abs(now - self._swept) < SWEEP_SECONDS:
            return False
        self._swept = now
        root = self._tables.warehouse / NAMESPACE
        count = 0
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            self._heartbeat()
            version = self._tables.version(folder.name)
            files = {str(p.relative_to(self._tables.warehouse)): str(p) for p in folder.rglob("*") if p.is_file()}
            live, garbage = self._named(folder.name, version)
            orphans = [path for name, path in files.items() if name not in live and name not in garbage]
            if len(orphans) > len(live & files.keys()):
                logger.error(
                    "stage=maintenance table=%s sweep stopped, nothing deleted: the catalog does not name %d of %d"
                    " files; if catalog.db is an old copy, restore the newest",
                    folder.name, len(orphans), len(files),
                )  # fmt: skip
            elif orphans:
                with transaction(self._tables.state) as connection:
                    check_epoch(connection, self._tables.epoch)
                    add_garbage(connection, folder.name, dict.fromkeys(orphans, 0), int(now * 1000))
                count += len(orphans)
        return count > 0

    def _named(self, table: str, version: Version | None) -> tuple[set[str | None], set[str | None]]:
        """Return the files that the table's snapshots name, and those on the garbage list.

        Paths are relative to the warehouse, because its own path may be spelled in several ways.
        """
        state, roots = self._tables.state, self._tables.roots
        live = {path for (path,) in state.execute("select path from questlog_files where table_name = ?", (table,))}
        garbage = state.execute("select path from questlog_garbage where table_name = ?", (table,)).fetchall()
        if version is not None:
            metadata = version.metadata
            live |= {version.location, *(entry.metadata_file for entry in metadata.metadata_log)}
            live |= {m.manifest_path for m in version.manifests} | {s.manifest_list for s in metadata.snapshots}
        return {inside(path, roots) for path in live}, {inside(path, roots) for (path,) in garbage}

    def clock_was_set(self) -> bool:
        """Return whether the clock was, or may have been, set within the grace period: no age can be computed then."""
        try:
            steady_ms = self._clock.steady_ms()
        except sqlite3.Error:  # the disk is full
            return True
        return steady_ms is not None and steady_ms < self._grace_ms

    def forget_ids(self, before_ms: int) -> int:
        """Forget some client-chosen ids that were logged before *before_ms* or exceed the limit; return how many.

        After the clock was set, none is forgotten for the grace period.
        """
        if self.clock_was_set():
            return 0
        state = self._tables.state
        if self._seen is None:
            self._seen = int(state.execute("select count(*) from questlog_seen").fetchone()[0])
        with transaction(state) as connection:
            check_epoch(connection, self._tables.epoch)
            forgotten = connection.execute(
                "delete from questlog_seen where event_id in"
                " (select event_id from questlog_seen where logged_ms < ? order by logged_ms limit ?)",
                (before_ms if self._seen <= SEEN_LIMIT else 1 << 62, _FORGET_IDS),
            ).rowcount
        self._seen -= forgotten
        return forgotten

    def remembered(self, ids: int) -> None:
        """Count ids that were just stored."""
        if self._seen is not None:
            self._seen += ids


def _oldest_sequence(version: Version) -> int:
    return min((s.sequence_number or 0 for s in version.metadata.snapshots), default=0)
