"""The cluster's lander: a Spark stream over the topic, each batch shaped once and committed table by table.

Spark's own checkpoint is thrown away: the tables say where to go on (ARCHITECTURE.md). A start, and
every start anew after trouble, first finishes exactly the batch that was half landed, then streams from the floor.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from questlog.errors import LakeUnavailable, LanderFenced, PlanError, QuestlogError
from questlog.land import Landed, StopSignal
from questlog.land.spark.chores import Chores
from questlog.land.spark.commits import File
from questlog.land.spark.ids import Ids, seen_table
from questlog.land.spark.locks import release_locks
from questlog.land.spark.session import is_alive
from questlog.land.spark.source import Source
from questlog.land.spark.states import Floor
from questlog.land.spark.tables import COMMITS_AT_ONCE, SparkTables
from questlog.land.spark.upkeep import SparkUpkeep
from questlog.land.spark.workers import RESULT, Task, shape_task
from questlog.log import Position, merge
from questlog.log.kafka.spool import is_locked, take_lock
from questlog.plan import Plan
from questlog.plan.load import parse_plan
from questlog.shape import QUARANTINE

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

WAIT_SECONDS = 2.0
BACKFILL_LOCK = "backfill.lock"

logger = logging.getLogger("questlog.land")
Publish = Callable[[Position], None]
"""Is told how much of the topic the tables hold, after each batch."""


class SparkLander:
    """Keeps the contract of `Lander` for a topic. Use as a context: one lander works at a time."""

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
        self._topic, self._kafka, self._namespace = topic, kafka, namespace
        self._source = Source(kafka, topic)
        self._data, self._publish, self._announce = data, publish, announce
        self._batch_records, self._land_seconds = batch_records, land_seconds
        self._lock = -1
        self._turn = threading.Lock()
        self._total = Landed()
        self._error: BaseException | None = None
        self._shown: Callable[[], None] = lambda: None

    def __enter__(self) -> SparkLander:
        """Take this machine's lock, start Spark, and take over the tables."""
        self._data.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._data / "spark-lander.lock", f"another lander works on {self._data}")
        self._spark = self._session()
        self._tables = SparkTables(self._spark, self._namespace)
        self._began = False
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # its process may be gone already
            self._spark.stop()
        os.close(self._lock)

    # -- the contract ----------------------------------------------------------------------------

    def drain(self, stop: StopSignal | None = None, shown: Callable[[int, int], None] | None = None) -> Landed:
        """Land everything that is in the topic now, or until told to stop, then return.

        *shown* is told after each batch how many records are landed, and of how many.
        """
        self._total = Landed()
        self._begin()
        if shown is not None:
            waiting = self._source.waiting(self._floor.position)
            self._shown = lambda: shown(self._total.records, waiting)
        self._stream(stop, {"availableNow": True})
        if stop is None or not stop.is_set():
            self._chores.finish(stop)
        return self._total

    def run(self, stop: StopSignal) -> None:
        """Land until told to stop. What goes away and comes back needs no hand: then it begins anew from the tables."""
        trouble = ""
        while not stop.is_set():
            try:
                self._begin()
                trouble = ""
                with self._chores.beside():
                    self._stream(stop, {"processingTime": f"{self._land_seconds} seconds"})
            except (LanderFenced, PlanError):
                raise
            except Exception as error:
                if stop.is_set():  # who stops us may have stopped Spark too; the tables know how far it got
                    return
                if not is_alive(self._spark):  # a process has one Spark: `questlog up` starts another
                    raise LakeUnavailable(
                        f"Spark has ended: {_first_line(error)}", hint="questlog up starts it again"
                    ) from error
                if (said := _first_line(error)) != trouble:
                    trouble = said
                    logger.error("stage=land waiting, events stay in the topic: %s", said)
                stop.wait(WAIT_SECONDS)

    # -- a start ---------------------------------------------------------------------------------

    @property
    def tables(self) -> SparkTables:
        """The tables this lander lands in, for who fills them before it lands."""
        return self._tables

    def take_over(self) -> Floor:
        """Be the one lander of these tables from now on; return what they hold."""
        self._tables.forget()
        # a backfill of this machine may be in the middle of a commit: then its lock is not a dead lander's
        busy, ours = is_locked(self._data / BACKFILL_LOCK), (self._tables.namespace, self._tables.own)
        if not busy and (released := release_locks(self._spark, ours)):
            logger.info("stage=land released %d lock(s) that nobody alive held", released)
        if self._began:
            return self._tables.floor()
        floor = self._tables.open()
        upkeep = SparkUpkeep(self._tables.twin(), lambda: self._plan().dedup_hours, lambda ms: self._ids.forget(ms))
        self._chores = Chores(self._spark, upkeep, self._announce)
        self._began = True
        return floor

    def _begin(self) -> None:
        """1 take over, tables too  2 read what each holds  3 finish what is half landed  4 make the plan's tables."""
        self._floor = self.take_over()
        positions = self._tables.take_over(self._tables.names())
        self._held = {name: position for name, (position, _) in positions.items()}
        self._ids = Ids(self._tables, self._plan().dedup_hours)
        self._adopted = ""
        half = merge(self._floor.position, *self._held.values())
        if half != self._floor.position:
            version = next(v for p, v in positions.values() if merge(self._floor.position, p) != self._floor.position)
            text = self._tables.remembered(version)
            self._finish(half, parse_plan(text) if text is not None else self._plan())
        self._follow(self._plan())
        self._publish(self._floor.position)

    def _follow(self, plan: Plan) -> None:
        """Make and grow the tables if this is another plan than the last."""
        if self._adopted != plan.version:
            self._targets = self._tables.adopt(plan)
            new = self._targets.keys() - self._held.keys()
            self._held |= {name: position for name, (position, _) in self._tables.take_over(new).items()}
            self._adopted = plan.version
            self._chores.tables_changed()

    def _follow_in_between(self) -> None:
        """Follow the plan while nothing comes: Spark calls for a batch only when there are events."""
        if self._turn.acquire(blocking=False):
            try:
                self._follow(self._plan())
            finally:
                self._turn.release()

    def _finish(self, half: Position, plan: Plan) -> None:
        """Land exactly what a predecessor had begun, under its plan."""
        logger.info("stage=land finishing what was half landed under plan %s", plan.version)
        self._land(self._source.part(self._spark, self._floor.position, half), plan)

    def _stream(self, stop: StopSignal | None, trigger: dict[str, Any]) -> None:
        """Run one stream until it ends, fails or is told to stop; a stop waits for the batch under way."""
        frame = self._source.stream(self._spark, self._floor.position, self._batch_records)
        self._error = None
        with tempfile.TemporaryDirectory(prefix="questlog-spark-") as checkpoint:
            query = (
                frame.writeStream.foreachBatch(self._batch)
                .option("checkpointLocation", f"file://{checkpoint}")
                .trigger(**trigger)
                .start()
            )
            try:
                while query.isActive and not (stop is not None and stop.is_set()):
                    if query.awaitTermination(1):
                        break
                    self._follow_in_between()
                deadline = time.monotonic() + 60
                while query.isActive and query.status["isTriggerActive"] and time.monotonic() < deadline:
                    time.sleep(0.05)
            except Exception:
                if self._error is not None:  # what went wrong in the batch, not Spark's account of it
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
        """1 shape, once  2 commit each table with its position  3 move the floor, last  4 tell."""
        started = time.monotonic()
        self._follow(plan)
        counts, files = self._shape(frame, plan)
        if not counts:
            return
        through = merge(self._floor.position, {int(p): o for p, o in counts["through"].items()})
        if through == self._floor.position:
            return
        shaped = time.monotonic()
        self._commit(files, through, plan)
        committed = time.monotonic()
        self._save(counts, through, plan)
        rows = {name: sum(file.rows for file in found) for name, found in files.items()}
        self._total += Landed(counts["records"], rows, counts["duplicate"])
        self._shown()
        logger.info(
            "stage=land records=%d quarantined=%d duplicate=%d ms=%d shape_ms=%d commit_ms=%d",
            counts["records"], rows.get(QUARANTINE, 0), counts["duplicate"], (time.monotonic() - started) * 1000,
            (shaped - started) * 1000, (committed - shaped) * 1000,
        )  # fmt: skip

    def _shape(self, frame: DataFrame, plan: Plan) -> tuple[dict[str, Any], dict[str, list[File]]]:
        """Shape the batch in one worker; again, knowing which ids came before, if any did."""
        held = {name: merge(position, self._floor.position) for name, position in self._held.items()}
        task = Task(plan.text, self._targets, held, self._floor.spools, time.time_ns() // 1_000_000)
        counts, files = _collect(frame, task)
        known = self._ids.known(counts["seen"]) if counts else {}
        if known:
            counts, files = _collect(frame, replace(task, seen=known))
        return counts, files

    def _commit(self, files: Mapping[str, list[File]], through: Position, plan: Plan) -> None:
        """Commit all tables, some at a time: a commit is waiting, for HDFS and the Metastore, not work."""

        def commit(name: str) -> None:
            position = merge(self._held.get(name, {}), through)
            self._tables.commit(name, files[name], position, plan.version)
            self._held[name] = position

        with ThreadPoolExecutor(COMMITS_AT_ONCE) as pool:
            done = [pool.submit(commit, name) for name in files]
        for future in done:  # all have ended, so what failed is finished by the next start, not beside it
            future.result()

    def _save(self, counts: dict[str, Any], through: Position, plan: Plan) -> None:
        """Move the floor, in memory too only once the table holds it."""
        sums = dict(self._floor.counts)
        for name in ("records", "resent", "lost", "duplicate"):
            sums[name] = sums.get(name, 0) + counts[name]
        spools = {**self._floor.spools, **counts["spools"]}
        floor = Floor(dict(through), spools, sums, self._tables.epoch, plan.version)
        self._tables.save(floor, seen_table(counts["seen"]))
        self._floor = floor
        self._ids.add(counts["seen"])
        try:
            self._publish(floor.position)
        except QuestlogError as error:  # the next batch tells it again
            logger.warning("stage=land cannot say how far it is: %s", error)


def _collect(frame: DataFrame, task: Task) -> tuple[dict[str, Any], dict[str, list[File]]]:
    """Return the counts, and the files of each table. One worker sees the whole batch, in order."""
    counts: dict[str, Any] = {}
    files: dict[str, list[File]] = {}
    for row in frame.coalesce(1).mapInArrow(partial(shape_task, task), RESULT).collect():
        if row.name:
            files.setdefault(row.name, []).append(File(row.day, row.rows, bytes(row.file)))
        else:
            counts = json.loads(bytes(row.file))
    return counts, files


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]
