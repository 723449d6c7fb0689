"""`questlog import`: import events from JSON Lines files, through the same log and plan as live events."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from questlog.cli.land import drain
from questlog.cli.progress import counting
from questlog.errors import LanderBusy

if TYPE_CHECKING:
    from questlog.pipeline import Pipeline


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--name", help="Name for standard input, so that an interrupted import can resume.")
@click.option("--again", is_flag=True, help="Import the files again, even if they were imported before.")
@click.option(
    "--land/--no-land", default=True, help="Also land the events, unless a lander is running.  [default: land]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def import_(folder: Path, files: tuple[str, ...], name: str | None, again: bool, land: bool, as_json: bool) -> None:
    """Import events from FILE..., one JSON object per line: plain, gzip or zstd. "-" is standard input.

    Events go through the same log, plan and landing as live events; those that do not fit the plan are
    quarantined. If an import is interrupted, run the same command again: it resumes, and no event is duplicated.
    The received time is the time of the import; an event's own time becomes its event time.
    """
    from questlog.importer import Import, Source
    from questlog.pipeline import open_pipeline

    if name is not None and files != ("-",):
        raise click.UsageError("--name is for standard input: questlog import --name NAME -")
    pipeline = open_pipeline(folder)
    reports = []
    for file in files:
        source = Source(file)
        remembered = (f"name:{name}" if name else None) if file == "-" else str(Path(file).resolve())
        started = time.monotonic()
        work = Import(pipeline, source, name=remembered, again=again)
        with counting(source.name) as show:
            step = None
            for step in work.run():
                show(step.events, step.read, step.size)
        source.close()
        report = {
            "file": file,
            "events": step.events if step else 0,
            "earlier": work.progress.events - (step.events if step else 0),
            "seconds": round(time.monotonic() - started, 3),
        }
        reports.append(report)
        if not as_json:
            _print(report)
    landed = _land(pipeline) if land and not pipeline.uses_servers else None
    if as_json:
        click.echo(json.dumps({"files": reports, "landed": landed}))
    elif landed is not None:
        rows = ", ".join(f"{table} {n:,}" for table, n in sorted(landed["rows"].items())) or "nothing new"
        click.echo(f"landed {rows}" + (f"; {landed['duplicates']:,} duplicates" if landed["duplicates"] else ""))
    elif pipeline.uses_servers:
        click.echo("questlog up forwards them to the topic and lands them")
    elif land:
        click.echo("the running lander will land them; queries already see them")


def _print(report: dict[str, Any]) -> None:
    done = f"{report['file']}: {report['events']:,} events in {report['seconds']:.1f} s"
    if report["earlier"] and not report["events"]:
        done = f"{report['file']}: nothing new; {report['earlier']:,} events were imported before (--again repeats it)"
    elif report["earlier"]:
        done += f", after {report['earlier']:,} in an earlier run"
    click.echo(done)


def _land(pipeline: Pipeline) -> dict[str, Any] | None:
    """Land everything logged; return None if another lander is running."""
    try:
        with pipeline.lander() as lander:
            landed = drain(lander)
    except LanderBusy:
        return None
    return {"records": landed.records, "rows": dict(landed.rows), "duplicates": landed.duplicates}
