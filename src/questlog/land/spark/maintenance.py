"""Table maintenance alongside the stream, in its own thread: merges small files, expires snapshots and ids.

No step is harmful at any time, so none needs an exclusive lock: a driver that was frozen in the middle may go on
whenever it wakes up (docs/decisions/0010). The thread also refreshes the query engine's view of the tables.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from questlog.errors import LakeUnavailable, LanderFenced, first_line
from questlog.lake.checkpoint import expirable, merge_checkpoints, read_snapshots, table_checkpoint
from questlog.land.spark.commits import Fence, IcebergCatalog, Overtaken
from questlog.land.spark.session import CATALOG
from questlog.land.spark.state import CHECKPOINTS, LanderState
from questlog.land.spark.tables import SparkTables
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EVERY_SECONDS = 600.0
KEEP_SECONDS = 3600.0
"""How long a running query still finds the files of its snapshot; each commit writes the list of all kept snapshots."""
SWEEP_SECONDS = 86_400.0
ORPHAN_SECONDS = 3 * 86_400.0
"""A file in no snapshot is garbage only when no commit under way can still be writing it."""
ATTEMPTS = 10
"""The number of attempts to repeat a checkpoint while the stream commits newer ones."""
POLL_SECONDS = 2.0
RETRY_SECONDS = 30.0
JOIN_SECONDS = 15.0
"""How long the end of the lander waits for a background task: one that is cut off runs again later."""
TAG = "questlog-maintenance"
"""The tag of maintenance jobs in Spark: they share the cores with the stream, and end when the lander does."""

logger = logging.getLogger("questlog.maintenance")


class SparkMaintenance:
    """Maintains one table at a time with Iceberg's own procedures.

    The table's own snapshots say when it was last maintained, so a lander that runs only occasionally maintains it too.
    *hours* returns how long ids count; *expired* is called with the cutoff (ms) once older ids are deleted.
    """

    def __init__(
        self,
        catalog: IcebergCatalog,
        namespace: str,
        hours: Callable[[], float],
        expired: Callable[[int], None] = lambda _: None,
        *,
        every: float = EVERY_SECONDS,
        keep: float = KEEP_SECONDS,
    ) -> None:
        self._catalog = catalog
        self._tables, self._state = SparkTables(catalog, namespace), LanderState(catalog, namespace)
        self._hours, self._expired = hours, expired
        self._every, self._keep = every, keep
        self._next: list[tuple[str, str]] = []
        self._due = time.monotonic()

    def step(self, stop: StopSignal | None = None) -> bool:
        """Maintain one table if it is due; return whether others may be due.

        An error only postpones it; a stop takes effect between two procedures.
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
        self._catalog.reopen()
        try:
            names = self._tables.names()
        except Exception as error:
            logger.warning("stage=maintenance postponed: %s", first_line(error))
            return []
        return [*((self._tables.namespace, name) for name in names), (self._state.namespace, CHECKPOINTS)]

    def _try(self, namespace: str, name: str, stop: StopSignal) -> None:
        started = time.monotonic()
        try:
            if not self._is_due(namespace, name):
                return
            self.maintain(namespace, name, stop)
        except LanderFenced as error:  # the next batch raises it too, and ends this lander
            logger.warning("stage=maintenance table=%s left to another lander: %s", name, error)
        except Exception as error:
            if not stop.is_set():
                logger.warning("stage=maintenance table=%s postponed: %s", name, first_line(error))
        else:
            logger.info("stage=maintenance table=%s ms=%d", name, (time.monotonic() - started) * 1000)

    def _is_due(self, namespace: str, name: str) -> bool:
        """Return whether the table was last maintained long enough ago, and there is something to do."""
        metadata = self._catalog.metadata(namespace, name)
        if not metadata.get("snapshots"):
            return False
        if not _is_past(table_checkpoint(metadata).kept or _first_ms(metadata), self._every):
            return False
        return _has_changed(metadata) or _sweep_is_due(metadata) or bool(expirable(metadata, _ago_ms(self._keep)))

    def maintain(self, namespace: str, name: str, stop: StopSignal | None = None) -> None:
        """1 expire ids  2 merge files  3 merge manifests  4 repeat the checkpoint  5 expire snapshots  6 orphans."""
        table = f"table => '{namespace}.{name}'"
        stop = stop or threading.Event()
        metadata = self._catalog.metadata(namespace, name)
        sweep = _sweep_is_due(metadata)
        if _has_changed(metadata):
            if (namespace, name) == (self._state.namespace, CHECKPOINTS):
                self._expired(self._state.expire_ids(self._hours()))
            self._call(stop, f"rewrite_data_files({table})")
            self._call(stop, f"rewrite_manifests({table})")
        if sweep or _has_changed(metadata):
            swept = _ago_ms(0) if sweep else table_checkpoint(metadata).swept or _first_ms(metadata)
            self.repeat_checkpoint(namespace, name, kept=_ago_ms(0), swept=swept)
        if old := expirable(self._catalog.metadata(namespace, name), _ago_ms(self._keep)):
            # exactly these: by age alone Iceberg would expire the snapshot that holds the position
            ids, never = ", ".join(map(str, old)), "older_than => TIMESTAMP '1970-01-02 00:00:00'"
            self._call(stop, f"expire_snapshots({table}, snapshot_ids => array({ids}), {never})")
        if sweep:
            # by the clock that dates the files: if ours were days ahead, files of a commit under way would look old
            before = self._catalog.written_ms(namespace, name) - int(ORPHAN_SECONDS * 1000)
            self._call(stop, f"remove_orphan_files({table}, older_than => TIMESTAMP '{_timestamp(before)}')")

    def repeat_checkpoint(self, namespace: str, name: str, *, kept: int = 0, swept: int = 0) -> None:
        """Commit the table's checkpoint once more, so that the snapshots that held it may expire.

        An older checkpoint never follows a newer one. Raises `LanderReplaced` if another lander took over.
        """
        for _ in range(ATTEMPTS):
            snapshots = [s for s in read_snapshots(self._catalog.metadata(namespace, name)) if s.checkpoint is not None]
            if not snapshots:
                return
            merged = merge_checkpoints(snapshot.checkpoint for snapshot in snapshots)
            repeated = replace(merged, epoch=self._catalog.epoch, kept=kept, swept=swept)
            try:
                self._catalog.append(
                    namespace, name, (), repeated, Fence(self._catalog.epoch, after=snapshots[-1].text)
                )
            except Overtaken:
                continue
            return
        raise LakeUnavailable(f"table {name} changes faster than its checkpoint can be repeated", retry_after=60)

    def _call(self, stop: StopSignal, procedure: str) -> None:
        if stop.is_set():
            raise InterruptedError
        self._catalog.spark.sql(f"call {CATALOG}.system.{procedure}").collect()


def _has_changed(metadata: Mapping[str, Any]) -> bool:
    """Return whether anything was committed after the last maintenance, which ends with its own commit."""
    newest = read_snapshots(metadata)[-1].checkpoint
    return newest is None or not newest.kept


def _sweep_is_due(metadata: Mapping[str, Any]) -> bool:
    return _is_past(table_checkpoint(metadata).swept or _first_ms(metadata), SWEEP_SECONDS)


def _first_ms(metadata: Mapping[str, Any]) -> int:
    return int(metadata["snapshots"][0]["timestamp-ms"])


def _ago_ms(seconds: float) -> int:
    return time.time_ns() // 1_000_000 - int(seconds * 1000)


def _is_past(since_ms: int, seconds: float) -> bool:
    """Return whether *since_ms* is *seconds* ago; a time ahead of our clock proves nothing and counts as past."""
    return not 0 <= _ago_ms(0) - since_ms < seconds * 1000


def _timestamp(ms: int) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")


# -- the thread --------------------------------------------------------------------------------------


class BackgroundTasks:
    """Table maintenance on its schedule, and the announcement of new tables to the query engine.

    Errors are logged once and postpone the task; they never stop the stream.
    """

    def __init__(self, spark: SparkSession, maintenance: SparkMaintenance, announce: Callable[[], None]) -> None:
        self._spark, self._maintenance, self._announce = spark, maintenance, announce
        self._to_announce, self._error = True, ""
        self._one = threading.Lock()

    def tables_changed(self) -> None:
        """Announce to the query engine that tables were created or have evolved."""
        self._to_announce = True

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the tasks for as long as the block does."""
        stop = threading.Event()
        thread = self._start(stop, once=False)
        try:
            yield
        finally:
            stop.set()
            deadline = time.monotonic() + JOIN_SECONDS
            while thread.is_alive() and time.monotonic() < deadline:
                self._cancel_jobs()
                thread.join(0.5)

    def finish(self, stop: StopSignal | None = None) -> None:
        """Run everything that is due, for a lander that runs only occasionally; a stop cuts it short."""
        done = threading.Event()
        thread = self._start(done, once=True)
        while thread.is_alive():
            thread.join(0.2)
            if stop is not None and stop.is_set():
                done.set()
                self._cancel_jobs()

    def _cancel_jobs(self) -> None:
        with contextlib.suppress(Exception):  # Spark may be gone
            self._spark.sparkContext.cancelJobsWithTag(TAG)

    def _start(self, stop: threading.Event, *, once: bool) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(stop, once), name="questlog-maintenance", daemon=True)
        thread.start()
        return thread

    def _run(self, stop: threading.Event, once: bool) -> None:
        with contextlib.suppress(Exception):  # the tag and the pool are this thread's own, in Spark too
            context = self._spark.sparkContext
            context.addJobTag(TAG)
            context.setLocalProperty("spark.scheduler.pool", TAG)
        while not stop.is_set():
            with self._one:  # a thread that was cut off may take a moment to notice
                if stop.is_set():
                    return
                retry, more = self._try_to_announce(), self._maintenance.step(stop)
            if once and not more:
                return
            stop.wait(0 if more else RETRY_SECONDS if retry else POLL_SECONDS)

    def _try_to_announce(self) -> bool:
        """Announce changed tables to the query engine; return whether it has to be tried again."""
        if self._to_announce:
            self._to_announce = False  # before the call: what changes during it is announced again
            try:
                self._announce()
                self._error = ""
            except Exception as error:
                self._to_announce = True
                self._log_once(first_line(error))
        return self._to_announce

    def _log_once(self, error: str) -> None:
        if error != self._error:
            self._error = error
            logger.warning("stage=land the view `events` is waiting for the query engine: %s", error)
