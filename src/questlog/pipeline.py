"""Puts the stages of a profile together; the only module that names implementations.

The two profiles are siblings under one protocol: `EmbeddedPipeline` needs no server, `ClusterPipeline` uses Kafka,
Spark, a Hive Metastore and Presto. Both append to a SQLite log on this machine.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from questlog.errors import LanderBusy, NotInstalled
from questlog.lake.state import load_checkpoint
from questlog.log.sqlite import SqliteLog
from questlog.plan import Plan
from questlog.plan.watch import PlanFile
from questlog.settings import Project, Settings, find_project

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from questlog.backfill import Backfill
    from questlog.backfill.quarantine import QuarantineBackfill
    from questlog.backfill.topic import TopicBackfill
    from questlog.export import Export
    from questlog.export.folder import FolderExport
    from questlog.export.hive import HiveExport
    from questlog.land import Lander
    from questlog.land.loop import LandingLoop
    from questlog.land.spark.lander import SparkLander
    from questlog.log import Log, LogReader, Position
    from questlog.log.kafka import KafkaLog
    from questlog.log.kafka.forward import Forwarder
    from questlog.log.kafka.spool import Spool
    from questlog.query import Params, QueryEngine
    from questlog.query.duckdb import DuckDBEngine
    from questlog.query.presto import PrestoEngine
    from questlog.query.result import Result
    from questlog.report import ClusterReport, EmbeddedReport, Report
    from questlog.report.doctor import Finding

ANNOUNCE_SECONDS = 30.0
"""How long a lander waits for the query engine before it puts off updating the view `events`."""
BUSY_SECONDS = 1.0
"""How long a lander waits for the lease of a predecessor that was killed: its last child ends a moment later."""
Part = Callable[[threading.Event, Callable[[], None]], None]
"""Works until the event is set; calls its second argument once it has started."""
logger = logging.getLogger("questlog.up")


class Pipeline(Protocol):
    """One project's stages, each built when it is first used: a sender never imports the lake."""

    project: Project
    uses_servers: bool
    """Whether topic, tables and queries are on servers rather than in the project's folder."""

    @property
    def plan(self) -> Plan:
        """The plan as the file defines it now. If the edited plan is invalid, the last valid one stays in effect."""

    @property
    def log(self) -> SqliteLog:
        """This machine's log: an event is accepted once it is appended here."""

    @property
    def landed_log(self) -> Log:
        """The log that the lander reads: on the cluster profile the topic, with the events of every machine."""

    @property
    def engine(self) -> QueryEngine:
        """What answers SQL."""

    @property
    def parts(self) -> Mapping[str, Part]:
        """The parts that `questlog up` runs, by name, each in its own process."""

    def lander(self) -> AbstractContextManager[Lander]:
        """Return a lander; entering it makes it the only one."""

    def backfill(self, into: str = "", records: int | None = None) -> Backfill:
        """Return a backfill of the tables, or of new ones named *into*, with the current plan."""

    def export(self, into: str = "") -> Export:
        """Return an export of plain Parquet into *into*: a folder or, on the cluster profile, a database."""

    def report(self) -> Report:
        """Return where every event is now, and what is blocked."""

    def examine(self) -> Iterator[Finding]:
        """Check this machine and the project's data, and yield each finding. Changes nothing."""

    def sql(self, text: str, params: Params = ()) -> Result:
        """Run one statement that only reads."""

    def close(self) -> None:
        """Release memory and files; the next use opens them again."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def open_pipeline(path: str | Path = ".", **overrides: Any) -> Pipeline:
    """Open the project at or above *path*; *overrides* replace settings by name."""
    return assemble(find_project(path, **overrides))


def assemble(project: Project) -> Pipeline:
    """Return the stages that the project's profile names."""
    profile = project.settings.profile
    if profile not in PROFILES:
        raise NotInstalled(f"profile {profile!r} is not available", hint=f"profiles: {', '.join(PROFILES)}")
    return PROFILES[profile](project)


def open_both(path: str | Path) -> tuple[EmbeddedPipeline, ClusterPipeline]:
    """Open the project at or above *path* on either profile, for a promotion from one to the other."""
    return (
        EmbeddedPipeline(find_project(path, profile="embedded")),
        ClusterPipeline(find_project(path, profile="cluster")),
    )


class _Stages:
    """The parts that both profiles share."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._plan_file = PlanFile(project.plan_path)

    @property
    def plan(self) -> Plan:
        return self._plan_file.read()

    @property
    def engine(self) -> QueryEngine:
        raise NotImplementedError

    def sql(self, text: str, params: Params = ()) -> Result:
        return self.engine.run(text, params)

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_log(self, checkpoint: Callable[[], Position]) -> SqliteLog:
        """Return this machine's log; *checkpoint* returns up to where its readers have read it."""
        settings = self.project.settings
        return SqliteLog(
            self.project.log_folder,
            min_free_bytes=settings.min_free_mb << 20,
            retry_after=settings.retry_after_seconds,
            checkpoint=checkpoint,
        )


class EmbeddedPipeline(_Stages):
    """One machine, no server: our own lander, Iceberg tables in the project's folder, DuckDB for queries."""

    uses_servers = False

    @cached_property
    def log(self) -> SqliteLog:
        return self._open_log(lambda: load_checkpoint(self.project.catalog))

    @property
    def landed_log(self) -> SqliteLog:
        return self.log

    @cached_property
    def engine(self) -> DuckDBEngine:
        return self.engine_over(self.log)

    def engine_over(self, log: LogReader) -> DuckDBEngine:
        """Return an engine that reads the tables and, after them, *log*."""
        from questlog.query.duckdb import DuckDBEngine

        settings = self.project.settings
        return DuckDBEngine(
            log,
            lambda: self.plan,
            self.project.catalog,
            self.project.data,
            seconds=settings.query_seconds,
            memory_mb=settings.query_memory_mb,
        )

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"lander": lambda stop, started: _run_lander(self, stop, started)}

    def lander(self) -> LandingLoop:
        from questlog.land.loop import LandingLoop
        from questlog.log.kafka.spool import keep_from

        settings = self.project.settings
        return LandingLoop(
            self.log,
            lambda: self.plan,
            self.project.catalog,
            self.project.warehouse,
            batch_records=settings.batch_records,
            land_seconds=settings.land_seconds,
            keep_log_hours=settings.keep_log_hours,
            keep_from=lambda: keep_from(self.project.data),
        )

    def backfill(self, into: str = "", records: int | None = None) -> QuarantineBackfill:
        """Return a backfill from quarantine; running it takes the lander's lease."""
        from questlog.backfill.quarantine import QuarantineBackfill

        return QuarantineBackfill(lambda: self.plan, self.project.catalog, self.project.warehouse)

    def export(self, into: str = "") -> FolderExport:
        from questlog.export.folder import FolderExport

        return FolderExport(self.engine, Path(into) if into else self.project.data / "export")

    def report(self) -> EmbeddedReport:
        from questlog.report.embedded import report_embedded

        return report_embedded(self.project, self.plan, self.log, self.engine)

    def examine(self) -> Iterator[Finding]:
        from questlog.report.doctor import examine

        return examine(self.project, lambda: self.plan, lambda: self.log, needs_java=False)


class ClusterPipeline(_Stages):
    """Several machines: the log is a spool in front of Kafka, Spark lands the topic, Presto answers queries."""

    uses_servers = True

    @cached_property
    def log(self) -> SqliteLog:
        from questlog.log.kafka.spool import forwarded

        return self._open_log(lambda: forwarded(self.project.data))

    @cached_property
    def landed_log(self) -> KafkaLog:
        from questlog.log.kafka import KafkaLog

        return KafkaLog(self.project.settings.topic, self.project.settings.kafka, self.project.data / "claims")

    @cached_property
    def engine(self) -> PrestoEngine:
        return self._engine(self.project.settings.query_seconds)

    def _engine(self, seconds: float) -> PrestoEngine:
        from questlog.query.presto import open_engine

        settings = self.project.settings
        return open_engine(settings.presto, settings.namespace, lambda: self.plan, seconds=seconds)

    @property
    def parts(self) -> Mapping[str, Part]:
        return {
            "lander": lambda stop, started: _run_lander(self, stop, started),
            "forwarder": lambda stop, started: _run_forwarder(self, stop, started),
        }

    def forwarder(self, spool: Spool, log: LogReader | None = None) -> Forwarder:
        """Return a forwarder from the log, or from *log*, to the topic; entering *spool* makes it the only one."""
        from questlog.log.kafka.forward import Forwarder

        settings = self.project.settings
        return Forwarder(log or self.log, spool, settings.topic, settings.kafka, keep_log_hours=settings.keep_log_hours)

    def lander(self) -> SparkLander:
        """Return a lander; entering it starts Spark and replaces the lander before it."""
        from questlog.land.spark.lander import SparkLander
        from questlog.land.spark.source import commit_offsets

        settings = self.project.settings
        return SparkLander(
            self.spark,
            lambda: self.plan,
            topic=settings.topic,
            kafka=settings.kafka,
            namespace=settings.namespace,
            data=self.project.data,
            publish=lambda position: commit_offsets(settings.kafka, settings.topic, position),
            announce=lambda: self._engine(ANNOUNCE_SECONDS).refresh_events(),
            batch_records=settings.batch_records,
            land_seconds=settings.land_seconds,
        )

    def spark(self) -> SparkSession:
        """Return a Spark session that has the tables; the caller stops it."""
        from questlog.land.spark.session import open_session

        settings = self.project.settings
        return open_session(
            master=settings.spark_master,
            jars=_spark_jars(settings),
            metastore=settings.metastore,
            warehouse=settings.warehouse,
            options=settings.spark,
        )

    def backfill(self, into: str = "", records: int | None = None) -> TopicBackfill:
        """Return a backfill from the topic, into the tables or into new ones in namespace *into*."""
        from questlog.backfill.topic import TopicBackfill

        settings = self.project.settings
        return TopicBackfill(
            self.spark,
            self.plan,
            topic=settings.topic,
            kafka=settings.kafka,
            namespace=settings.namespace,
            data=self.project.data,
            records=records or settings.batch_records,
            into=into,
        )

    def export(self, into: str = "") -> HiveExport:
        from questlog.export.hive import HiveExport

        settings = self.project.settings
        return HiveExport(
            self.spark,
            catalog="lake",
            namespace=settings.namespace,
            database=into or f"{settings.namespace}_export",
            warehouse=settings.warehouse,
            metastore=settings.metastore,
        )

    def report(self) -> ClusterReport:
        """Return where every event is now, and what is blocked. Asks Kafka and Presto."""
        from questlog.report.cluster import report_cluster

        return report_cluster(self.project, self.plan, self.log, lambda: self.engine)

    def examine(self) -> Iterator[Finding]:
        from questlog.report.doctor import examine

        return examine(self.project, lambda: self.plan, lambda: self.log, needs_java=True)


PROFILES: Mapping[str, Callable[[Project], Pipeline]] = {"embedded": EmbeddedPipeline, "cluster": ClusterPipeline}


def _spark_jars(settings: Settings) -> Sequence[str]:
    """Return Iceberg's and Kafka's jars for Spark, unless the settings name their own."""
    if any(key in settings.spark for key in ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")):
        return ()
    from questlog.stack import spark_jars

    return spark_jars(settings.metastore, settings.warehouse)


def _run_lander(pipeline: Pipeline, stop: threading.Event, started: Callable[[], None]) -> None:
    with contextlib.ExitStack() as stack:
        lander = _enter_when_free(stack, pipeline, stop)
        started()
        logger.info("landing %s; Ctrl-C stops", pipeline.project.root)
        lander.run(stop)
    logger.info("stopped; everything logged in time has landed")


def _enter_when_free(stack: contextlib.ExitStack, pipeline: Pipeline, stop: threading.Event) -> Lander:
    """Return a lander at work; if another process keeps the lease for `BUSY_SECONDS`, raise `LanderBusy`."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return stack.enter_context(pipeline.lander())
        except LanderBusy:
            if time.monotonic() > deadline or stop.wait(0.05):
                raise


def _run_forwarder(pipeline: ClusterPipeline, stop: threading.Event, started: Callable[[], None]) -> None:
    from questlog.log.kafka.spool import Spool

    project = pipeline.project
    with Spool(project.data, project.log_folder) as spool:
        started()
        logger.info("forwarding %s to topic %s", project.log_folder, project.settings.topic)
        pipeline.forwarder(spool).run(stop)
