"""`questlog backfill`: what was logged earlier, shaped by the plan of now, into the tables or into new ones."""

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
@click.option("--from", "start", default="earliest", metavar="PLACE", help="Where to begin.  [default: earliest]")
@click.option("--to", "end", default="latest", metavar="PLACE", help="Where to end, before it.  [default: latest]")
@click.option(
    "--into", default="", metavar="NAME", help="Make new tables: a folder; in the cluster profile a namespace."
)
@click.option("--slice", "records", type=click.IntRange(1), help="How many records are taken at a time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def backfill(
    folder: Path, files: tuple[str, ...], start: str, end: str, into: str, records: int | None, as_json: bool
) -> None:
    """Shape by the plan of now what was logged earlier, and add what the tables do not hold.

    The usual reason: events of an unknown type, or with a field that did not fit, went to quarantine, and
    the plan knows them now. They leave quarantine for their tables; nothing is added twice, however often
    this is run, and what the plan of now would refuse stays in the table it is in.

    PLACE is `earliest`, `latest`, a time in UTC (2026-11-24, 2026-11-24T10:00), or offsets (0:100,1:250 is
    offset 100 of partition 0 and 250 of partition 1; other partitions are taken whole).

    \b
    questlog backfill                             all that is there
    questlog backfill --from 2026-11-24           since a day
    questlog backfill --into swords_2             new tables, from scratch, by the plan of now
    questlog backfill --into new old.jsonl.gz     new tables from files

    With --into everything is shaped anew, so old events get new columns, names and tables too. Embedded, NAME
    is a folder that becomes a project of its own (`questlog -C NAME sql`), from this project's log or from
    FILEs of events or of a topic's records. In the cluster profile it is a namespace of the metastore.
    Interrupted, the same command goes on where it stopped; run later, it adds what came since.

    In the cluster profile the topic is read with Spark, and a lander may work meanwhile: a backfill ends where
    the lander has come to. Times are those at which Kafka got the records. Embedded, what is in quarantine is
    read (it holds each record as logged), and no lander may run meanwhile.
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
        raise click.UsageError("files go into new tables, --into DIR; questlog import FILE adds them to this project's")
    if files and bounds != (OPEN, OPEN):
        raise click.UsageError("--from and --to are log positions; files are read whole")
    if into and not pipeline.uses_servers:
        return ProjectBackfill(pipeline.project, pipeline.plan, pipeline.log, Path(into), files, fill=fill_project)
    return pipeline.backfill(into, records)


def _text(done: BackfillResult, into: str) -> str:
    added = ", ".join(f"{name} {rows:,}" for name, rows in sorted(done.rows.items()) if rows) or "nothing"
    parts = [f"read {done.records:,} records, added {added}" + (f" to {into}" if into else "")]
    if done.held:
        parts.append(f"{done.held:,} were there")
    if done.duplicates:
        parts.append(f"{done.duplicates:,} duplicates")
    if done.cleared:
        parts.append(f"{done.cleared:,} left quarantine")
    if done.waiting:
        parts.append(f"{done.waiting:,} are the lander's to land")
    return "; ".join(parts)
