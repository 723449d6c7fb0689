"""`spark-submit … land.py -C DIR`: land a project's topic with the master and settings of spark-submit."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.errors import NotInstalled, QuestlogError
from questlog.messages import start_logging
from questlog.pipeline import assemble
from questlog.printable import protect_output
from questlog.settings import find_project
from questlog.stopping import on_signal

if TYPE_CHECKING:
    from questlog.settings import Project

_JARS = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", default=".", type=click.Path(path_type=Path), help="The project's folder.")
@click.option("--once", is_flag=True, help="Land what is in the topic now, then exit.")
def land(folder: Path, once: bool) -> None:
    """Land the project's topic until stopped. Options of spark-submit override the project's settings."""
    start_logging(as_json=False)
    stop = threading.Event()
    on_signal(stop.set, signal.SIGINT, signal.SIGTERM)
    project = find_project(folder)
    with assemble(_submitted(project)).lander() as lander:
        if once:
            landed = lander.drain(stop)
            rows = ", ".join(f"{name} {count:,}" for name, count in sorted(landed.rows.items())) or "nothing new"
            click.echo(f"landed {landed.records:,} records: {rows}")
        else:
            lander.run(stop)


def _submitted(project: Project) -> Project:
    """Return the project with the master and options of spark-submit."""
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()
    submitted = dict(SparkConf().getAll())
    if not any(key in submitted for key in _JARS):
        raise NotInstalled(
            "spark-submit needs the jars of Iceberg and Kafka",
            hint='spark-submit --jars "$(questlog land --print jars)" "$(questlog land --print job)"',
        )
    if submitted.get("spark.app.name") == Path(__file__).name:  # Spark's default, not set by anyone
        del submitted["spark.app.name"]
    settings = project.settings
    options = {**settings.spark, **submitted}
    return replace(
        project,
        settings=replace(
            settings,
            profile="cluster",
            spark=options,
            spark_master=submitted.get("spark.master", settings.spark_master),
        ),
    )


if __name__ == "__main__":
    protect_output()
    try:
        land()
    except QuestlogError as error:
        click.echo(f"questlog: {error}" + (f"\n  try: {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)
