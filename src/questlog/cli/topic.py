"""`questlog topic`: make and describe the Kafka topic that events go to."""

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
    """Make and describe the Kafka topic of the cluster profile.

    Its name, partitions, replication and retention are settings: topic, topic_partitions,
    topic_replication, topic_retention_hours; where the brokers are is [kafka] in questlog.toml.
    """


@topic.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def create(folder: Path, as_json: bool) -> None:
    """Make the topic; if it is there, bring its retention and limits up to the settings.

    Run it as often as you like. The number of partitions of a topic that exists never changes.
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
    click.echo(f"topic {settings.topic}: {'; '.join(done) if done else 'is there, as the settings say'}")


@topic.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def describe(folder: Path, as_json: bool) -> None:
    """Show the topic's partitions, who leads them, how far they go, and its options."""
    from questlog.log.kafka.topic import describe_topic

    settings = find_project(folder).settings
    found = describe_topic(settings.kafka, settings.topic)
    if as_json:
        click.echo(json.dumps({**asdict(found), "records": found.records}, indent=2))
        return
    rows: list[list[str | None]] = [
        [str(p.id), _leader(p.leader), _brokers(p.replicas), _brokers(p.in_sync), f"{p.first:,}", f"{p.end:,}"]
        for p in found.partitions
    ]
    click.echo(f"topic {found.name}: {found.records:,} records in {len(found.partitions)} partition(s)")
    names = ("partition", "leader", "replicas", "in sync", "first", "end")
    click.echo(table_text(names, rows, [True, True, False, False, True, True]), nl=False)
    click.echo(", ".join(f"{key} {value}" for key, value in found.options.items()))


def _leader(number: int) -> str:
    return "none" if number < 0 else str(number)


def _brokers(numbers: Any) -> str:
    return " ".join(map(str, numbers))
