"""`questlog land`: land once, then stop."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from questlog.cli.progress import counting
from questlog.errors import ProjectNotFound
from questlog.pipeline import open_pipeline
from questlog.settings import Settings, find_project
from questlog.stopping import on_signal

if TYPE_CHECKING:
    from questlog.land import Landed, Lander
    from questlog.stopping import StopSignal


def drain(lander: Lander, stop: StopSignal | None = None) -> Landed:
    """Land everything logged so far and show the progress."""
    with counting("landing") as show:
        return lander.drain(stop, lambda landed, total: show(landed, landed, total))


def _path(folder: Path, asked: str) -> str:
    if asked == "job":
        from questlog import jobs

        return str(Path(jobs.__path__[0]) / "land.py")
    from questlog.stack import spark_jars

    try:
        settings = find_project(folder).settings
    except ProjectNotFound:  # the jars do not depend on a project
        settings = Settings()
    return ",".join(spark_jars(settings.metastore, settings.warehouse))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--print", "asked", type=click.Choice(["job", "jars"]),
              help="Land nothing; print the path of the job or the jars, for spark-submit.")  # fmt: skip
@click.pass_obj
def land(folder: Path, as_json: bool, asked: str | None) -> None:
    """Land everything logged so far, then stop.

    `questlog up` lands continuously; this command is for scripts, and for projects that land occasionally. On the
    cluster profile it lands the topic, on the Spark master that the setting spark_master names. You can also
    submit the same job with Spark's own command:

    \b
      spark-submit --jars "$(questlog land --print jars)" "$(questlog land --print job)" -C . --once
    """
    if asked:
        click.echo(_path(folder, asked))
        return
    stop = threading.Event()
    on_signal(stop.set, signal.SIGINT, signal.SIGTERM)
    with open_pipeline(folder).lander() as lander:
        landed = drain(lander, stop)
    report: dict[str, Any] = {
        "records": landed.records,
        "rows": dict(sorted(landed.rows.items())),
        "duplicates": landed.duplicates,
        "stopped": stop.is_set(),
    }
    if as_json:
        click.echo(json.dumps(report))
    else:
        rows = ", ".join(f"{name} {count:,}" for name, count in report["rows"].items()) or "nothing new"
        click.echo(f"landed {landed.records:,} records: {rows}; {landed.duplicates:,} duplicates")
    if stop.is_set():
        raise click.Abort
