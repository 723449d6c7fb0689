"""`questlog status` on the cluster profile: how far this machine's spool and the topic are, and what is in the way."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from questlog.errors import LogUnavailable

if TYPE_CHECKING:
    from questlog.pipeline import Pipeline


def show_spool(pipeline: Pipeline, as_json: bool) -> None:
    """Print the report; exit with 1 if events cannot get on."""
    report = spool_report(pipeline)
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    if report["trouble"] is not None:
        raise SystemExit(1)


def spool_report(pipeline: Pipeline) -> dict[str, Any]:
    """Return the counts of the spool, of the topic as far as it can be asked, and what the forwarder says."""
    from questlog.log.kafka.spool import read_forwarding

    project = pipeline.project
    found = read_forwarding(project.data, project.log_folder)
    accepted, forwarded = sum(pipeline.log.end().values()), sum(found.sent.values())
    trouble = found.trouble
    return {
        "project": str(project.root),
        "profile": project.settings.profile,
        "plan_version": pipeline.plan.version,
        "spool": {
            "name": found.name,
            "accepted": accepted,
            "forwarded": forwarded,
            "waiting": accepted - forwarded,
            "landed": sum(found.landed.values()),
        },
        "topic": _topic(pipeline),
        "forwarder": "runs" if found.alive else "stopped",
        "trouble": trouble
        and {"text": trouble.text, "hint": trouble.hint, "seconds": round(time.time() - trouble.since_ms / 1000, 1)},
    }


def _topic(pipeline: Pipeline) -> dict[str, Any]:
    """Return how many records the topic has and how many of them the tables hold."""
    from questlog.log.kafka.forward import landed_offsets
    from questlog.log.kafka.topic import describe_topic

    settings = pipeline.project.settings
    try:
        topic = describe_topic(settings.kafka, settings.topic)
        landed = landed_offsets(settings.kafka, settings.topic)
    except LogUnavailable as error:
        return {"name": settings.topic, "trouble": str(error), "hint": error.hint}
    waiting = sum(p.end - max(landed.get(p.id, 0), p.first) for p in topic.partitions)
    return {"name": settings.topic, "records": sum(p.end for p in topic.partitions), "waiting": waiting}


def _text(report: dict[str, Any]) -> str:
    spool, topic, trouble = report["spool"], report["topic"], report["trouble"]
    lines = [
        f"spool {spool['name'] or '(nothing forwarded yet)'}: accepted {spool['accepted']:,} = "
        f"forwarded {spool['forwarded']:,} + waiting {spool['waiting']:,}; landed {spool['landed']:,}"
    ]
    if "trouble" in topic:
        lines.append(f"topic {topic['name']}: {topic['trouble']}\n  try: {topic['hint']}")
    else:
        lines.append(f"topic {topic['name']}: {topic['records']:,} records, {topic['waiting']:,} wait to be landed")
    if trouble is not None:
        lines.append(f"the forwarder waits since {trouble['seconds']} s: {trouble['text']}\n  try: {trouble['hint']}")
    elif report["forwarder"] == "stopped":
        lines.append("no forwarder runs: events wait on this machine; questlog up forwards them")
    return "\n".join(lines)
