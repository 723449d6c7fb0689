"""What a promotion to the cluster would do, and whether its requirements are met. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from questlog.errors import QuestlogError
from questlog.lake.state import load_state
from questlog.land.lease import last_holder
from questlog.log.kafka.spool import read_handover
from questlog.settings import Project, Settings

if TYPE_CHECKING:
    from questlog.log import LogReader
    from questlog.query import QueryEngine

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing a promotion needs: whether it is met, and what to do if it is not."""

    name: str
    met: bool
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class TableSize:
    """How much of one table is to be copied."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PromotionPlan:
    """What a promotion would do: land `waiting` records, then copy `tables`.

    `state` is the state of an earlier promotion, or "".
    """

    waiting: int
    tables: Mapping[str, TableSize]
    state: str
    target: str


def describe_target(settings: Settings) -> str:
    """Return where a project is promoted to, in words."""
    return f"schema {settings.namespace} of {settings.metastore} with topic {settings.topic}"


def plan_promotion(project: Project, log: LogReader, settings: Settings) -> PromotionPlan:
    """Return what a promotion of *project* to the cluster of *settings* would do."""
    lake = load_state(project.catalog)
    handover = read_handover(project.data)
    return PromotionPlan(
        waiting=sum(max(0, end - lake.checkpoint.get(partition, 0)) for partition, end in log.end().items()),
        tables={name: TableSize(table.rows, table.bytes) for name, table in lake.tables.items()},
        state=handover.state if handover else "",
        target=describe_target(settings),
    )


def preflight(project: Project, settings: Settings, open_engine: Callable[[], QueryEngine]) -> Iterator[Requirement]:
    """Yield everything a promotion needs, local requirements first; the engine queries the cluster's tables."""
    yield _lander(project)
    yield _spark()
    yield _kafka(settings)
    yield _server("metastore", settings.metastore, 9083)
    yield _server("warehouse", settings.warehouse, 8020)
    yield from _presto(settings, open_engine, begun=read_handover(project.data) is not None)


def _lander(project: Project) -> Requirement:
    holder = last_holder(project.catalog)
    if holder is None or not holder.alive:
        return Requirement("lander", True, "none is running")
    text = f"process {holder.pid} ({holder.command}) is landing events"
    return Requirement("lander", False, text, "stop questlog up; the game may keep running")


def _spark() -> Requirement:
    home = os.environ.get("JAVA_HOME", "")
    if importlib.util.find_spec("pyspark") is None:
        return Requirement("spark", False, "not installed", "pip install 'questlog[cluster]'")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        return Requirement("spark", False, "no Java", "questlog doctor")
    return Requirement("spark", True, "installed, with Java")


def _kafka(settings: Settings) -> Requirement:
    from questlog.log.kafka.client import where
    from questlog.log.kafka.topic import describe_topic, topic_exists

    try:
        if not topic_exists(settings.kafka, settings.topic):
            text = f"{where(settings.kafka)} answers; topic {settings.topic} will be created"
            return Requirement("kafka", True, text)
        topic = describe_topic(settings.kafka, settings.topic)
    except QuestlogError as error:
        return Requirement("kafka", False, str(error), error.hint)
    text = f"{where(settings.kafka)} answers; topic {topic.name} has {topic.records:,} records"
    return Requirement("kafka", True, text)


def _server(name: str, url: str, port: int) -> Requirement:
    """Return whether the port accepts connections; Spark verifies the service."""
    address = urlsplit(url)
    if address.scheme not in ("thrift", "hdfs", "http", "https") or (address.scheme == "hdfs" and not address.port):
        return Requirement(name, True, f"{url}, not checked")
    try:
        default = {"http": 80, "https": 443}.get(address.scheme, port)
        socket.create_connection((address.hostname or "", address.port or default), CONNECT_SECONDS).close()
    except OSError as error:
        hint = f"{name} in questlog.toml; questlog stack status"
        return Requirement(name, False, f"{url} does not answer: {error}", hint)
    return Requirement(name, True, f"{url} accepts connections")


def _presto(settings: Settings, open_engine: Callable[[], QueryEngine], *, begun: bool) -> Iterator[Requirement]:
    try:
        tables = sorted(open_engine().tables())
    except QuestlogError as error:
        yield Requirement("presto", False, str(error), error.hint or "[presto] in questlog.toml")
        return
    yield Requirement("presto", True, "answers")
    usable = begun or not tables
    text = f"{settings.namespace} has {', '.join(tables) or 'no tables yet'}"
    yield Requirement("schema", usable, text, "" if usable else "set namespace in questlog.toml to another one")
