"""The cluster's lander: a Spark stream over the topic, each batch shaped once and committed table by table.

Spark's own streaming checkpoint is discarded: the tables determine where to resume (ARCHITECTURE.md). A start, and
every restart after an error, first finishes exactly the batch that was half landed, then streams from the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questlog.durable import FileLock, is_locked, make_folder
from questlog.errors import LakeUnavailable, LanderBusy, LanderFenced, PlanError, QuestlogError, first_line
from questlog.lake.checkpoint import Checkpoint
from questlog.land import Landed, Shown
from questlog.land.spark.commits import File, IcebergCatalog, release_locks
from questlog.land.spark.evolve import adopt_plan
from questlog.land.spark.maintenance import BackgroundTasks, SparkMaintenance
from questlog.land.spark.session import is_alive
from questlog.land.spark.source import TopicSource
from questlog.land.spark.state import Ids, LanderState, ids_table
from questlog.land.spark.tables import COMMITS_AT_ONCE, SparkTables
from questlog.land.spark.workers import FILES, Task, shape_task
from questlog.log import Position, merge
from questlog.log.kafka.spool import BUSY_SECONDS
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.load import parse_plan
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

RETRY_SECONDS = 2.0
STOP_SECONDS = 60.0
"""How long a stop waits for the batch in progress."""
BACKFILL_LOCK = "backfill.lock"

logger = logging.getLogger("questlog.land")
Publish = Callable[[Position], None]
"""Called after each batch with how much of the topic the tables hold."""


class SparkLander:
    """Implements `Lander` for a topic. Use as a context manager: one lander works at a time."""

    def __init__(
        self,
        session: Callable[[], SparkSession],
        plan: Callable[[], Plan],
        *,
        topic: str,
        kafka: Mapping[str, str],
        namespace: str,
        data: Path,
        publish: Publish,
        announce: Callable[[], None] = lambda: None,
        batch_records: int = 50_000,
        land_seconds: float = 1.0,
    ) -> None:
        self._session, self._plan = session, plan
        self._namespace, self._source = namespace, TopicSource(kafka, topic)
        self._data, self._publish, self._announce = data, publish, announce
        self._batch_records, self._land_seconds = batch_records, land_seconds
        self._lock = FileLock(data / "spark-lander.lock")
        self._turn = threading.Lock()
        self._total = Landed()
        self._error: BaseException | None = None
        self._shown: Callable[[], None] = lambda: None

    def __enter__(self) -> SparkLander:
        """Take this machine's lock and start Spark."""
        make_folder(self._data)
        busy = LanderBusy(f"another lander works on {self._data}", hint="questlog status")
        self._lock.acquire(busy, BUSY_SECONDS)
        self._spark = self._session()
        self.catalog = IcebergCatalog(self._spark)
        self.tables, self.state = SparkTables(self.catalog, self._namespace), LanderState(self.catalog, self._namespace)
        self._began = False
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # its process may be gone already
            self._spark.stop()
        self._lock.release()

    # -- the contract ----------------------------------------------------------------------------

    def drain(self, stop: StopSignal | None = None, shown: Shown | None = None) -> Landed:
        """Land everything that is in the topic now, or until asked to stop, then return.

        *shown* is called after each batch with the number of records landed, and of how many.
        """
        self._total = Landed()
        self._begin()
        if shown is not None:
            waiting = self._source.waiting(self._checkpoint.position)
            self._shown = lambda: shown(self._total.records, waiting)
        self._stream(stop, {"availableNow": True})
        if stop is None or not stop.is_set():
            self._background.finish(stop)
        return self._total

    def run(self, stop: StopSignal) -> None:
        """Land until asked to stop. After an outage of a server the lander resumes from the tables by itself."""
        logged = ""
        while not stop.is_set():
            try:
                self._begin()
                logged = ""
                with self._background.running():
                    self._stream(stop, {"processingTime": f"{self._land_seconds} seconds"})
            except (LanderFenced, PlanError):
                raise
            except Exception as error:
                if stop.is_set():  # the same signal may have stopped Spark too; the tables hold the checkpoint
                    return
                if not is_alive(self._spark):  # a process has one Spark: `questlog up` starts another
                    raise LakeUnavailable(
                        f"Spark has ended: {first_line(error)}", hint="questlog up restarts it"
                    ) from error
                if (line := first_line(error)) != logged:
                    logged = line
                    logger.error("stage=land waiting, events stay in the topic: %s", line)
                stop.wait(RETRY_SECONDS)

    # -- a start ---------------------------------------------------------------------------------

    def take_over(self) -> Checkpoint:
        """Become the one lander of these tables; return what they hold."""
        self.catalog.reopen()
        # a backfill on this machine may be in the middle of a commit, and its lock must stay
        backfilling, namespaces = is_locked(self._data / BACKFILL_LOCK), (self.tables.namespace, self.state.namespace)
        if not backfilling and (released := release_locks(self._spark, namespaces)):
            logger.info("stage=land released %d lock(s) of dead landers", released)
        if self._began:
            return self.state.checkpoint()
        self.tables.create_namespace()
        checkpoint = self.state.take_over()
        maintenance = SparkMaintenance(
            self.catalog.twin(), self._namespace, lambda: self._plan().dedup_hours, lambda ms: self._ids.expire(ms)
        )
        self._background = BackgroundTasks(self._spark, maintenance, self._announce)
        self._began = True
        return checkpoint

    def _begin(self) -> None:
        """1 take over, tables too  2 read what each holds  3 finish a half-landed batch  4 follow the plan."""
        self._checkpoint = self.take_over()
        checkpoints = self.tables.take_over(self.tables.names())
        self._committed = {name: checkpoint.position for name, checkpoint in checkpoints.items()}
        self._ids = Ids(self.state, self._plan().dedup_hours)
        self._adopted = ""
        before = self._checkpoint.position
        half = merge(before, *self._committed.values())
        if half != before:
            version = next(c.plan for c in checkpoints.values() if merge(before, c.position) != before)
            text = self.state.plan_text(version)
            self._finish(half, parse_plan(text) if text is not None else self._plan())
        self._follow(self._plan())
        self._publish(self._checkpoint.position)

    def _follow(self, plan: Plan) -> None:
        """Create and evolve the tables if this is another plan than the last."""
        if self._adopted != plan.version:
            self._targets = adopt_plan(self.tables, self.state, plan)
            new = self._targets.keys() - self._committed.keys()
            self._committed |= {name: each.position for name, each in self.tables.take_over(new).items()}
            self._adopted = plan.version
            self._background.tables_changed()

    def _follow_while_idle(self) -> None:
        """Follow the plan while no events arrive: Spark calls for a batch only when there are some."""
        if self._turn.acquire(blocking=False):
            try:
                self._follow(self._plan())
            finally:
                self._turn.release()

    def _finish(self, half: Position, plan: Plan) -> None:
        """Land exactly what a predecessor had begun, under its plan."""
        logger.info("stage=land finishing a half-landed batch under plan %s", plan.version)
        self._land(self._source.part(self._spark, self._checkpoint.position, half), plan)

    def _stream(self, stop: StopSignal | None, trigger: dict[str, Any]) -> None:
        """Run one stream until it ends, fails or is asked to stop; a stop waits for the batch in progress."""
        frame = self._source.stream(self._spark, self._checkpoint.position, self._batch_records)
        self._error = None
        with tempfile.TemporaryDirectory(prefix="questlog-spark-") as folder:
            query = (
                frame.writeStream.foreachBatch(self._batch)
                .option("checkpointLocation", f"file://{folder}")
                .trigger(**trigger)
                .start()
            )
            try:
                while query.isActive and not (stop is not None and stop.is_set()):
                    if query.awaitTermination(1):
                        break
                    self._follow_while_idle()
                deadline = time.monotonic() + STOP_SECONDS
                while query.isActive and query.status["isTriggerActive"] and time.monotonic() < deadline:
                    time.sleep(0.05)
            except Exception:
                if self._error is not None:  # the batch's own error, not Spark's report of it
                    raise self._error from None
                raise
            finally:
                with contextlib.suppress(Exception):
                    query.stop()

    def _batch(self, frame: DataFrame, _: int) -> None:
        try:
            with self._turn:
                self._land(frame, self._plan())
        except BaseException as error:
            self._error = error
            raise

    # -- a batch ---------------------------------------------------------------------------------

    def _land(self, frame: DataFrame, plan: Plan) -> None:
        """1 shape, once  2 commit each table with its position  3 move the checkpoint, last  4 publish it."""
        started = time.monotonic()
        self._follow(plan)
        counts, files = self._shape(frame, plan)
        if not counts:
            return
        through = merge(self._checkpoint.position, {int(p): o for p, o in counts["through"].items()})
        if through == self._checkpoint.position:
            return
        shaped = time.monotonic()
        self._commit(files, through, plan)
        committed = time.monotonic()
        self._save(counts, through, plan)
        rows = {name: sum(file.rows for file in of_table) for name, of_table in files.items()}
        self._total += Landed(counts["records"], rows, counts["duplicate"])
        self._shown()
        logger.info(
            "stage=land records=%d quarantined=%d duplicate=%d ms=%d shape_ms=%d commit_ms=%d",
            counts["records"], rows.get(QUARANTINE_TABLE, 0), counts["duplicate"], (time.monotonic() - started) * 1000,
            (shaped - started) * 1000, (committed - shaped) * 1000,
        )  # fmt: skip

    def _shape(self, frame: DataFrame, plan: Plan) -> tuple[dict[str, Any], dict[str, list[File]]]:
        """Shape the batch in one worker; a second time if some of its ids were seen before."""
        committed = {name: merge(position, self._checkpoint.position) for name, position in self._committed.items()}
        task = Task(plan.text, self._targets, committed, self._checkpoint.spools, time.time_ns() // 1_000_000)
        counts, files = _collect(frame, task)
        seen = self._ids.seen_elsewhere(counts["seen"]) if counts else {}
        if seen:
            counts, files = _collect(frame, replace(task, seen=seen))
        return counts, files

    def _commit(self, files: Mapping[str, list[File]], through: Position, plan: Plan) -> None:
        """Commit all tables, some at a time: a commit mostly waits for HDFS and the Metastore."""

        def commit(name: str) -> None:
            position = merge(self._committed.get(name, {}), through)
            self.tables.commit(name, files[name], position, plan.version)
            self._committed[name] = position

        with ThreadPoolExecutor(COMMITS_AT_ONCE) as pool:
            commits = [pool.submit(commit, name) for name in files]
        for future in commits:  # all have ended: the next start finishes what failed, and nothing runs alongside it
            future.result()

    def _save(self, counts: dict[str, Any], through: Position, plan: Plan) -> None:
        """Move the checkpoint; in memory only after the table holds it."""
        sums = dict(self._checkpoint.counts)
        for name in ("records", "resent", "lost", "duplicate"):
            sums[name] = sums.get(name, 0) + counts[name]
        spools = {**self._checkpoint.spools, **counts["spools"]}
        checkpoint = Checkpoint(dict(through), plan.version, self.catalog.epoch, spools, sums)
        self.state.save(checkpoint, ids_table(counts["seen"]))
        self._checkpoint = checkpoint
        self._ids.add(counts["seen"])
        try:
            self._publish(checkpoint.position)
        except QuestlogError as error:  # the next batch publishes it again
            logger.warning("stage=land cannot publish the checkpoint: %s", error)


def _collect(frame: DataFrame, task: Task) -> tuple[dict[str, Any], dict[str, list[File]]]:
    """Return the counts, and the files of each table. One worker sees the whole batch, in order."""
    counts: dict[str, Any] = {}
    files: dict[str, list[File]] = {}
    for row in frame.coalesce(1).mapInArrow(partial(shape_task, task), FILES).collect():
        if row.name:
            files.setdefault(row.name, []).append(File(row.day, row.rows, bytes(row.file)))
        else:
            counts = json.loads(bytes(row.file))
    return counts, files
