"""Puts the parts of a profile together; the only module that knows implementations."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from questlog.errors import NotInstalled, PlanError
from questlog.lake.state import load_checkpoint
from questlog.log.sqlite import SqliteLog
from questlog.plan import Plan
from questlog.plan.load import load_plan
from questlog.settings import Project, Settings, find_project

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from questlog.export.folder import FolderExport
    from questlog.export.hive import HiveExport
    from questlog.land.backfill import QuarantineBackfill
    from questlog.land.loop import LandingLoop
    from questlog.land.spark import SparkLander
    from questlog.land.spark.refill import TopicBackfill
    from questlog.log import LogReader, Position
    from questlog.log.kafka import KafkaLog
    from questlog.log.kafka.forward import Forwarder
    from questlog.log.kafka.spool import Spool
    from questlog.query import Params
    from questlog.query.duckdb import DuckDBEngine
    from questlog.query.presto import PrestoEngine
    from questlog.query.result import Result
    from questlog.report import Report

ANNOUNCE_SECONDS = 30.0
"""How long a lander waits for the query engine before it puts the view off."""

logger = logging.getLogger("questlog.plan")


class Pipeline:
    """The stages of one project, built when first used: a sender never imports the lake."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._plan_lock = threading.Lock()
        self._plan: tuple[tuple[int, int, int], Plan] | None = None

    @property
    def plan(self) -> Plan:
        """The plan as the file says now; read again when the file changes.

        A change that cannot be read does not stop what runs: the last plan that could counts on.
        """
        stamp = _stamp(self.project.plan_path)
        known = self._plan
        if known is not None and known[0] == stamp:
            return known[1]
        with self._plan_lock:
            if self._plan is None:
                self._plan = (stamp, load_plan(self.project.plan_path))
            elif self._plan[0] != stamp:
                plan = self._plan[1]
                try:
                    plan = load_plan(self.project.plan_path)
                except PlanError as error:
                    logger.error("the plan has changed and cannot be used, the last one counts on: %s", error)
                self._plan = (stamp, plan)
            return self._plan[1]

    @cached_property
    def log(self) -> SqliteLog:
        settings = self.project.settings
        return SqliteLog(
            self.project.log_folder,
            min_free_bytes=settings.min_free_mb << 20,
            retry_after=settings.retry_after_seconds,
            floor=self._floor,
        )

    def _floor(self) -> Position:
        """Return how far the log has been read, as its readers remember it."""
        return load_checkpoint(self.project.catalog)

    @cached_property
    def engine(self) -> DuckDBEngine:
        from questlog.query.duckdb import DuckDBEngine

        settings = self.project.settings
        return DuckDBEngine(
            self.log,
            lambda: self.plan,
            self.project.catalog,
            self.project.data,
            seconds=settings.query_seconds,
            memory_mb=settings.query_memory_mb,
        )

    def lander(self) -> LandingLoop:
        """Return a lander; entering it takes the project's one lease."""
        from questlog.land.loop import LandingLoop
        from questlog.log.kafka.spool import needed

        settings = self.project.settings
        return LandingLoop(
            self.log,
            lambda: self.plan,
            self.project.catalog,
            self.project.warehouse,
            batch_records=settings.batch_records,
            land_seconds=settings.land_seconds,
            keep_log_hours=settings.keep_log_hours,
            needed=lambda: needed(self.project.data),
        )

    def backfill(self, into: str = "", records: int | None = None) -> QuarantineBackfill:
        """Return what fills the tables from quarantine; entering its run takes the lander's lease."""
        from questlog.land.backfill import QuarantineBackfill

        return QuarantineBackfill(lambda: self.plan, self.project.catalog, self.project.warehouse)

    def export(self, into: str = "") -> FolderExport:
        """Return what writes plain Parquet into folder *into*."""
        from questlog.export.folder import FolderExport

        return FolderExport(self.engine, Path(into) if into else self.project.data / "export")

    def report(self) -> Report:
        """Return where every event is now, and what is blocked."""
        from questlog.report.embedded import report_embedded

        return report_embedded(self.project, self.plan, self.log, self.engine)

    def sql(self, text: str, params: Params = ()) -> Result:
        """Run one reading statement over landed files and the tail."""
        return self.engine.run(text, params)

    def close(self) -> None:
        """Give back memory and files; what is used next opens them again."""
        if "engine" in self.__dict__:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


class ClusterPipeline(Pipeline):
    """The same game on Kafka, Spark and a Hive Metastore; the log is the spool in front of the topic."""

    def _floor(self) -> Position:
        from questlog.log.kafka.spool import forwarded

        return forwarded(self.project.data)

    @cached_property
    def topic_log(self) -> KafkaLog:
        """The topic, for whoever reads it without Spark."""
        from questlog.log.kafka import KafkaLog

        return KafkaLog(self.project.settings.topic, self.project.settings.kafka, self.project.data / "claims")

    def forwarder(self, spool: Spool, log: LogReader | None = None) -> Forwarder:
        """Return what moves the spool, or *log* in its place, to the topic; entering *spool* makes it the only one."""
        from questlog.log.kafka.forward import Forwarder

        settings = self.project.settings
        return Forwarder(log or self.log, spool, settings.topic, settings.kafka, keep_log_hours=settings.keep_log_hours)

    def lander(self) -> SparkLander:  # type: ignore[override]
        """Return a lander; entering it starts Spark and takes over the tables."""
        from questlog.land.spark import SparkLander
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
            announce=self._announce,
            batch_records=settings.batch_records,
            land_seconds=settings.land_seconds,
        )

    def _announce(self) -> None:
        """Make Presto's view `events` hold the tables as they are now, for those who ask Presto without us."""
        from questlog.query.presto import open_engine

        settings = self.project.settings
        open_engine(settings.presto, settings.namespace, lambda: self.plan, seconds=ANNOUNCE_SECONDS).refresh_events()

    def spark(self) -> SparkSession:
        """Return a Spark that knows the tables; who asks for it stops it."""
        from questlog.land.spark.session import open_session

        settings = self.project.settings
        return open_session(
            master=settings.spark_master,
            jars=_spark_jars(settings),
            metastore=settings.metastore,
            warehouse=settings.warehouse,
            options=settings.spark,
        )

    def backfill(self, into: str = "", records: int | None = None) -> TopicBackfill:  # type: ignore[override]
        """Return what fills the tables, or new ones in namespace *into*, from the topic."""
        from questlog.land.spark.refill import TopicBackfill

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

    def export(self, into: str = "") -> HiveExport:  # type: ignore[override]
        """Return what writes plain Parquet and registers it as tables of database *into*."""
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

    def report(self) -> Report:
        """Return where every event is now, and what is blocked. Asks Kafka and Presto."""
        from questlog.report.cluster import report_cluster

        return report_cluster(self.project, self.plan, self.log, self.engine)

    @cached_property
    def engine(self) -> PrestoEngine:  # type: ignore[override]
        from questlog.query.presto import open_engine

        settings = self.project.settings
        return open_engine(settings.presto, settings.namespace, lambda: self.plan, seconds=settings.query_seconds)


def _spark_jars(settings: Settings) -> Sequence[str]:
    """Return Iceberg's and Kafka's jars for Spark, unless the settings bring their own."""
    if any(key in settings.spark for key in ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")):
        return ()
    from questlog.stack import spark_jars

    return spark_jars(settings.metastore, settings.warehouse)


PROFILES: dict[str, type[Pipeline]] = {"embedded": Pipeline, "cluster": ClusterPipeline}


def open_pipeline(path: str | Path = ".", **overrides: Any) -> Pipeline:
    """Open the project at or above *path*."""
    project = find_project(path, **overrides)
    if project.settings.profile not in PROFILES:
        raise NotInstalled(
            f"profile {project.settings.profile!r} is not available", hint=f"profiles: {', '.join(PROFILES)}"
        )
    return PROFILES[project.settings.profile](project)
