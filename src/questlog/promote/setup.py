"""What a promotion changes outside the tables: it creates the topic, and sets the profile in questlog.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from questlog.durable import write_file
from questlog.errors import QuestlogError
from questlog.report.preflight import preflight
from questlog.settings import CLUSTER_LINE, Settings, load_settings

if TYPE_CHECKING:
    from questlog.pipeline import ClusterPipeline, EmbeddedPipeline


def make_topic(settings: Settings) -> None:
    """Create the topic as the settings define it; an existing one stays as it is."""
    from questlog.log.kafka.topic import create_topic, topic_exists

    if not topic_exists(settings.kafka, settings.topic):
        create_topic(
            settings.kafka, settings.topic, partitions=settings.topic_partitions,
            replication=settings.topic_replication, retention_hours=settings.topic_retention_hours,
        )  # fmt: skip


def require_prerequisites(embedded: EmbeddedPipeline, cluster: ClusterPipeline) -> None:
    """Raise what a promotion would otherwise find missing only after Spark has started."""
    for each in preflight(embedded.project, cluster.project.settings, lambda: cluster.engine):
        if not each.met and each.name in ("spark", "kafka", "metastore", "warehouse", "presto"):
            raise QuestlogError(f"{each.name}: {each.text}", hint=each.hint)


def write_profile(path: Path) -> None:
    """Set `profile = "cluster"` in questlog.toml, and leave every other line as it is."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    top = next((n for n, text in enumerate(lines) if text.lstrip().startswith("[")), len(lines))
    present = next((n for n in range(top) if lines[n].split("=")[0].strip().strip("\"'") == "profile"), None)
    if present is None:
        lines.insert(0, CLUSTER_LINE)
    else:
        lines[present] = CLUSTER_LINE
    text = "\n".join(lines) + "\n"
    if tomllib.loads(text).get("profile") != "cluster":
        raise QuestlogError(f"{path} cannot be changed safely", hint=f"add {CLUSTER_LINE} to it by hand")
    write_file(path, text)
    load_settings(path)
