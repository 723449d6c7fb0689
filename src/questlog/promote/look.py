"""What a promotion would do and whether it can: looked at, nothing touched."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from questlog.errors import QuestlogError
from questlog.lake.state import load_state
from questlog.land.lease import last_holder
from questlog.log.kafka.spool import read_handover
from questlog.settings import load_settings

if TYPE_CHECKING:
    from questlog.pipeline import ClusterPipeline, Pipeline

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing a promotion needs: whether it is there, and what to do if not."""

    what: str
    good: bool
    said: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Amount:
    """What there is to do: records to land first, then per table rows and bytes to copy; and how far it is already."""

    waiting: int
    tables: dict[str, tuple[int, int]]
    state: str
    target: str


def target_of(cluster: Pipeline) -> str:
    """Return where a project is promoted to, in words."""
    settings = cluster.project.settings
    return f"schema {settings.namespace} of {settings.metastore} with topic {settings.topic}"


def amount(embedded: Pipeline, cluster: Pipeline) -> Amount:
    """Return what there is to do. `state` is "", or how far a promotion is that was begun."""
    project = embedded.project
    state = load_state(project.catalog)
    waiting = sum(max(0, o - state.checkpoint.get(p, 0)) for p, o in embedded.log.end().items())
    handover = read_handover(project.data)
    tables = {name: (table.rows, table.bytes) for name, table in state.tables.items()}
    return Amount(waiting, tables, handover.state if handover else "", target_of(cluster))


def look(embedded: Pipeline, cluster: ClusterPipeline) -> Iterator[Seen]:
    """Yield everything a promotion needs, the nearest first."""
    holder = last_holder(embedded.project.catalog)
    if holder is not None and holder.alive:
        yield Seen(
            "lander", False, f"process {holder.pid} ({holder.command}) lands", "stop questlog up; the game may go on"
        )
    else:
        yield Seen("lander", True, "none runs")
    yield _spark()
    yield _kafka(cluster)
    settings = cluster.project.settings
    yield _door("metastore", settings.metastore, 9083)
    yield _door("warehouse", settings.warehouse, 8020)
    yield from _presto(cluster, begun=read_handover(embedded.project.data) is not None)


def _spark() -> Seen:
    home = os.environ.get("JAVA_HOME", "")
    if importlib.util.find_spec("pyspark") is None:
        return Seen("spark", False, "not installed", "pip install 'questlog[cluster]'")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        return Seen("spark", False, "no Java", "questlog doctor")
    return Seen("spark", True, "installed, and Java is there")


def _kafka(cluster: ClusterPipeline) -> Seen:
    from questlog.log.kafka.client import where
    from questlog.log.kafka.topic import describe_topic

    settings = cluster.project.settings
    try:
        if not has_topic(settings.kafka, settings.topic):
            return Seen("kafka", True, f"{where(settings.kafka)} answers; topic {settings.topic} will be made")
        found = describe_topic(settings.kafka, settings.topic)
    except QuestlogError as error:
        return Seen("kafka", False, str(error), error.hint)
    return Seen("kafka", True, f"{where(settings.kafka)} answers; topic {found.name} has {found.records:,} records")


def has_topic(kafka: Mapping[str, str], name: str) -> bool:
    """Return whether the topic is there; raise `LogUnavailable` if nobody answers."""
    from questlog.log.kafka.client import ANSWER_SECONDS, open_admin, unavailable

    admin = open_admin(kafka)  # says how to install what is missing
    from confluent_kafka import KafkaException

    try:
        return name in admin.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise unavailable(kafka, error, name) from error


def make_topic(cluster: ClusterPipeline) -> None:
    """Make the topic as the settings say if it is not there; one that is stays as it is."""
    from questlog.log.kafka.topic import create_topic

    settings = cluster.project.settings
    if not has_topic(settings.kafka, settings.topic):
        create_topic(
            settings.kafka, settings.topic, partitions=settings.topic_partitions,
            replication=settings.topic_replication, retention_hours=settings.topic_retention_hours,
        )  # fmt: skip


def _door(what: str, url: str, port: int) -> Seen:
    """Return whether somebody listens; what he does there Spark finds out."""
    at = urlsplit(url)
    if at.scheme in ("", "file") or (at.scheme == "hdfs" and at.port is None):
        return Seen(what, True, f"{url}, not tried")
    if at.scheme not in ("thrift", "hdfs", "http", "https"):
        return Seen(what, True, f"{url}, not tried")
    try:
        usual = {"http": 80, "https": 443}.get(at.scheme, port)
        socket.create_connection((at.hostname or "", at.port or usual), CONNECT_SECONDS).close()
    except OSError as error:
        return Seen(what, False, f"{url} does not answer: {error}", f"{what} in questlog.toml; questlog stack status")
    return Seen(what, True, f"{url} listens")


def _presto(cluster: ClusterPipeline, *, begun: bool) -> Iterator[Seen]:
    settings = cluster.project.settings
    try:
        tables = sorted(cluster.engine.tables())
    except QuestlogError as error:
        yield Seen("presto", False, str(error), error.hint or "[presto] in questlog.toml")
        return
    yield Seen("presto", True, "answers")
    yield Seen(
        "schema", begun or not tables, f"{settings.namespace} has {', '.join(tables) or 'no tables yet'}",
        "" if begun or not tables else "name another one: namespace in questlog.toml",
    )  # fmt: skip


def refuse_what_is_missing(embedded: Pipeline, cluster: ClusterPipeline) -> None:
    """Raise what a promotion would find missing only after Spark has started."""
    for seen in look(embedded, cluster):
        if not seen.good and seen.what in ("spark", "kafka", "metastore", "warehouse", "presto"):
            raise QuestlogError(f"{seen.what}: {seen.said}", hint=seen.hint)


def write_profile(path: Path) -> None:
    """Say `profile = "cluster"` in questlog.toml, and leave every other line as it is."""
    line = 'profile = "cluster"'
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    top = next((n for n, text in enumerate(lines) if text.lstrip().startswith("[")), len(lines))
    said = next((n for n in range(top) if lines[n].split("=")[0].strip().strip("\"'") == "profile"), None)
    if said is None:
        lines.insert(0, line)
    else:
        lines[said] = line
    text = "\n".join(lines) + "\n"
    if tomllib.loads(text).get("profile") != "cluster":
        raise QuestlogError(f"{path} cannot be changed safely", hint=f"write {line} into it by hand")
    draft = path.with_name(f".{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        shutil.copymode(path, draft)
    draft.replace(path)
    load_settings(path)
