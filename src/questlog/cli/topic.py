"""`questlog topic`: create and describe the Kafka topic that events go to."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from questlog.cli.rows import table_text
from questlog.settings import find_project


@click.group()
def topic() -> None:
    """Create and describe the Kafka topic of the cluster profile.

    Its name, partitions, replication and retention come from the settings topic, topic_partitions,
    topic_replication and topic_retention_hours; the brokers' addresses from [kafka] in questlog.toml.
    """


@topic.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(folder: Path, as_json: bool) -> None:
    """Create the topic, or update the retention and limits of an existing one to match the settings.

    Run it as often as you like. The number of partitions of an existing topic never changes.
    """
    from questlog.log.kafka.topic import create_topic

    settings = find_project(folder).settings
    done = create_topic(
        settings.kafka,
        settings.topic,
        partitions=settings.topic_partitions,
        replication=settings.topic_replication,
        retention_hours=settings.topic_retention_hours,
    )
    if as_json:
        click.echo(json.dumps({"topic": settings.topic, "done": done}, indent=2))
        return
    click.echo(f"topic {settings.topic}: {'; '.join(done) if done else 'exists and matches the settings'}")


@topic.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def describe(folder: Path, as_json: bool) -> None:
    """Show the topic's partitions, with their leaders and offsets, and its options."""
    from questlog.log.kafka.topic import describe_topic

    settings = find_project(folder).settings
    described = describe_topic(settings.kafka, settings.topic)
    if as_json:
        click.echo(json.dumps({**asdict(described), "records": described.records}, indent=2))
        return
    rows: list[list[str | None]] = [
        [str(p.id), _leader(p.leader), _brokers(p.replicas), _brokers(p.in_sync), f"{p.first:,}", f"{p.end:,}"]
        for p in described.partitions
    ]
    click.echo(f"topic {described.name}: {described.records:,} records in {len(described.partitions)} partition(s)")
    names = ("partition", "leader", "replicas", "in sync", "first", "end")
    click.echo(table_text(names, rows, [True, True, False, False, True, True]), nl=False)
    click.echo(", ".join(f"{key} {value}" for key, value in described.options.items()))


def _leader(number: int) -> str:
    return "none" if number < 0 else str(number)


def _brokers(numbers: Any) -> str:
    return " ".join(map(str, numbers))
