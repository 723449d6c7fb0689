"""`questlog backfill`: re-process earlier events with the current plan, into the tables or into new ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.progress import counting
from questlog.pipeline import open_pipeline
from questlog.stopping import stopping

if TYPE_CHECKING:
    from questlog.backfill import Backfill, BackfillResult
    from questlog.backfill.bounds import Bound
    from questlog.pipeline import Pipeline


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--from", "start", default="earliest", metavar="PLACE", help="Where to start.  [default: earliest]")
@click.option("--to", "end", default="latest", metavar="PLACE", help="Where to stop, exclusive.  [default: latest]")
@click.option(
    "--into",
    default="",
    metavar="NAME",
    help="Create new tables, in this folder or, on the cluster profile, in this namespace.",
)
@click.option("--slice", "records", type=click.IntRange(1), help="Records to process at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def backfill(
    folder: Path, files: tuple[str, ...], start: str, end: str, into: str, records: int | None, as_json: bool
) -> None:
    """Re-process earlier events with the current plan, and add the rows that the tables lack.

    Typical use: events of an unknown type, or with a field that did not fit, were quarantined, and the plan
    has been extended since. They move from quarantine to their tables. No row is ever added twice, however
    often you run this, and rows that no longer fit the current plan are left where they are.

    PLACE is `earliest`, `latest`, a time in UTC (2026-11-24, 2026-11-24T10:00), or offsets: 0:100,1:250 means
    offset 100 of partition 0, offset 250 of partition 1, and every other partition whole.

    \b
    questlog backfill                             everything
    questlog backfill --from 2026-11-24           from this day on
    questlog backfill --into swords_2             new tables, built from scratch with the current plan
    questlog backfill --into new old.jsonl.gz     new tables from files

    With --into, every event is re-processed, so old events get new columns, names and tables too. On the embedded
    profile NAME is a folder that becomes a separate project (`questlog -C NAME sql`); its events come from this
    project's log, or from FILEs that hold events or a topic's records. On the cluster profile NAME is a namespace
    in the metastore. If interrupted, the same command resumes; run again later, it adds newer events.

    On the cluster profile Spark reads the topic, and a lander may run at the same time: a backfill stops at the
    lander's checkpoint. Times are those at which Kafka received the records. On the embedded profile a backfill
    without --into reads quarantine, which holds each record as it was logged, and no lander may run at the same time.
    """
    from questlog.backfill.bounds import parse_bound

    bounds = parse_bound(start), parse_bound(end)
    pipeline = open_pipeline(folder)
    work = _work(pipeline, into, files, records, bounds)
    with stopping() as stop, counting("backfill") as show:
        done = work.run(*bounds, stop, show)
        stopped = stop.is_set()
    click.echo(json.dumps({"into": into or None, **asdict(done), "stopped": stopped}) if as_json else _text(done, into))
    if stopped:
        raise click.Abort


def _work(
    pipeline: Pipeline, into: str, files: tuple[str, ...], records: int | None, bounds: tuple[Bound, Bound]
) -> Backfill:
    from questlog.backfill.bounds import OPEN
    from questlog.backfill.project import ProjectBackfill
    from questlog.importer import fill_project

    if files and (pipeline.uses_servers or not into):
        raise click.UsageError("files need --into DIR, a new project; questlog import FILE adds them to this one")
    if files and bounds != (OPEN, OPEN):
        raise click.UsageError("--from and --to are log positions; files are read whole")
    if into and not pipeline.uses_servers:
        return ProjectBackfill(pipeline.project, pipeline.plan, pipeline.log, Path(into), files, fill=fill_project)
    return pipeline.backfill(into, records)


def _text(done: BackfillResult, into: str) -> str:
    added = ", ".join(f"{name} {rows:,}" for name, rows in sorted(done.rows.items()) if rows) or "nothing"
    parts = [f"read {done.records:,} records, added {added}" + (f" to {into}" if into else "")]
    if done.held:
        parts.append(f"{done.held:,} already in the tables")
    if done.duplicates:
        parts.append(f"{done.duplicates:,} duplicates")
    if done.cleared:
        parts.append(f"{done.cleared:,} left quarantine")
    if done.waiting:
        parts.append(f"{done.waiting:,} left to the lander")
    return "; ".join(parts)
