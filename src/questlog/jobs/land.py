"""`spark-submit … land.py -C DIR`: land a project's topic, on the master and with the settings of spark-submit."""

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
from questlog.settings import find_project
from questlog.stopping import on_signal

if TYPE_CHECKING:
    from questlog.settings import Project

_JARS = ("spark.jars", "spark.jars.packages", "spark.driver.extraClassPath")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", default=".", type=click.Path(path_type=Path), help="The project's folder.")
@click.option("--once", is_flag=True, help="Land what is in the topic now, and end.")
def land(folder: Path, once: bool) -> None:
    """Land the project's topic until told to stop. What spark-submit says goes over the project's settings."""
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
    """Return the project with the master and the options that spark-submit was given."""
    from pyspark import SparkConf, SparkContext

    SparkContext._ensure_initialized()
    said = dict(SparkConf().getAll())
    if not any(key in said for key in _JARS):
        raise NotInstalled(
            "spark-submit was given no jars: Iceberg's and Kafka's are needed",
            hint='spark-submit --jars "$(questlog land --print jars)" "$(questlog land --print job)"',
        )
    if said.get("spark.app.name") == Path(__file__).name:  # what Spark says where nobody said anything
        del said["spark.app.name"]
    settings = project.settings
    options = {**settings.spark, **said}
    return replace(
        project,
        settings=replace(
            settings, profile="cluster", spark=options, spark_master=said.get("spark.master", settings.spark_master)
        ),
    )


if __name__ == "__main__":
    try:
        land()
    except QuestlogError as error:
        click.echo(f"questlog: {error}" + (f"\n  try: {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)
