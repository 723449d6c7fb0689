"""`questlog tail`: print events as they are accepted, and mark those that do not fit the plan."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from questlog.cli.terminal import draw, print_data, uses_color
from questlog.errors import LogUnavailable
from questlog.log import Entry, Log, Position, merge
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan import Plan
from questlog.printable import clean
from questlog.record import decode_record
from questlog.shape import validate_entry

POLL_SECONDS = 0.05
TOPIC_POLL_SECONDS = 0.25
"""Each poll costs the brokers a request per partition."""
_READ = 1000
_RETRY_SECONDS = 1.0


@click.command()
@click.option(
    "-n", "--lines", default=10, show_default=True, type=click.IntRange(0), help="Start with the last N events."
)
@click.option(
    "--follow/--no-follow", "-f/ ", default=True, help="Keep printing new events until Ctrl-C.  [default: follow]"
)
@click.option("--event", "types", multiple=True, metavar="TYPE", help="Only events of this type; repeatable.")
@click.option("--bad", is_flag=True, help="Only events that do not fit the plan.")
@click.option("--here", is_flag=True, help="On the cluster profile: only events that this machine accepted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@click.pass_obj
def tail(folder: Path, lines: int, follow: bool, types: tuple[str, ...], bad: bool, here: bool, as_json: bool) -> None:
    """Print events as they are accepted; those that do not fit the plan are marked with the reason.

    An event is printed once it is durable, whether it has landed or not. On the cluster profile this command
    prints the topic, which has the events of every machine.
    """
    pipeline = open_pipeline(folder)
    log, poll_seconds = _open(pipeline, here)
    end = log.end()

    def show(entries: Sequence[Entry]) -> None:
        wanted = (_describe(entry, pipeline.plan) for entry in entries)
        for event in wanted:
            if (not types or event["event_type"] in types) and (not bad or event["reason"]):
                if as_json:
                    print_data(json.dumps(event, ensure_ascii=False))
                else:
                    draw(_line(event))

    if lines:
        show(_last(log, end, lines))
    if follow:
        _follow(log, end, show, poll_seconds)


def _open(pipeline: Pipeline, here: bool) -> tuple[Log, float]:
    """Return the log to follow and how often to poll it: on the cluster profile the topic, if brokers answer."""
    if here or pipeline.landed_log is pipeline.log:
        return pipeline.log, POLL_SECONDS
    try:
        pipeline.landed_log.end()
    except LogUnavailable as error:
        hint = f"{error.hint}; questlog tail --here shows what this machine accepted"
        raise LogUnavailable(str(error), hint=hint) from error
    return pipeline.landed_log, TOPIC_POLL_SECONDS


def _follow(log: Log, position: Position, show: Callable[[Sequence[Entry]], None], poll_seconds: float) -> None:
    """Show the events after *position* until Ctrl-C; while brokers are away, wait for them."""
    blocked = ""
    while True:
        try:
            batch = log.read(position, _READ)
        except LogUnavailable as error:
            if poll_seconds == POLL_SECONDS:
                raise
            if str(error) != blocked:
                blocked = str(error)
                click.echo(f"waiting: {blocked}", err=True)
            time.sleep(_RETRY_SECONDS)
            continue
        if blocked:
            blocked = ""
            click.echo("resumed", err=True)
        position = merge(position, batch.through)
        for gap in batch.gaps:
            click.echo(f"the log lost offsets {gap.first} to {gap.until - 1}: {gap.reason}", err=True)
        show(batch.entries)
        if not batch:
            time.sleep(poll_seconds)


def _last(log: Log, end: Any, count: int) -> list[Entry]:
    """Return the *count* entries before *end* that were accepted last."""
    position = {partition: max(0, offset - count) for partition, offset in end.items()}
    entries: list[Entry] = []
    while any(position.get(partition, 0) < offset for partition, offset in end.items()):
        batch = log.read(position, _READ)
        if not batch:
            break
        entries += [e for e in batch.entries if e.offset < end.get(e.partition, 0)]
        position = merge(position, batch.through)
    return sorted(entries, key=lambda e: (e.received_ms, e.partition, e.offset))[-count:]


def _describe(entry: Entry, plan: Plan) -> dict[str, Any]:
    """Return one event as it is printed."""
    verdict = validate_entry(entry, plan)
    record = decode_record(entry.value)
    received = record.received if record else entry.received_ms
    reject = verdict.reject
    return {
        "received_time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(received / 1000)) + f".{received % 1000:03}Z",
        "event_type": verdict.event.name if verdict.event else verdict.claimed,
        "event_id": record.id if record else None,
        "reason": reject.reason.value if reject else None,
        "field": (reject.field or None) if reject else None,
        "detail": (reject.detail or None) if reject else None,
        "event": (record.raw() if record else entry.value).decode("utf-8", "backslashreplace"),
    }


def _line(event: dict[str, Any]) -> str:
    body = clean(event["event"])
    kind = clean(event["event_type"]) if event["event_type"] else "?"
    line = f"{event['received_time'][11:23]}  {kind:<24} {body}"
    if event["reason"]:
        why = " ".join(filter(None, (event["reason"], event["field"], event["detail"])))
        line += f"\n{'':14}^ bad: {clean(why)}"
        if sys.stdout.isatty() and uses_color():
            line = click.style(line, fg="red")
    return line
