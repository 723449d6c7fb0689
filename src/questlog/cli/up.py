"""`questlog up`: runs the parts of a project, each in its own process, and restarts those that die."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.messages import start_logging
from questlog.settings import COLLECT_PORT

if TYPE_CHECKING:
    import socket

    from questlog.supervise import Part


@click.command()
@click.option("--only", type=click.Choice(["forwarder", "lander"]), help="Run only this part.")
@click.option("--collect", is_flag=True, help=f"Also run a collector, on collect_port or {COLLECT_PORT}.")
@click.option("--json", "as_json", is_flag=True, help="Write log messages as lines of JSON.")
@click.pass_obj
def up(folder: Path, only: str | None, collect: bool, as_json: bool) -> None:
    """Run what this project needs until Ctrl-C: the lander, which moves events from the log to the tables.

    On the cluster profile also the forwarder, which moves events from this machine's log to Kafka, where the
    lander reads them. Use --only forwarder on a machine that runs the game while another machine lands.

    With --collect, or with the setting collect_port, it also runs the collector, which accepts events over HTTP.

    A part that dies is restarted. Ctrl-C lands what has been logged so far, then stops. Your app accepts events,
    and queries read them, whether this runs or not.
    """
    from questlog.settings import find_project
    from questlog.supervise import Supervisor, forked

    start_logging(as_json)
    settings = find_project(folder).settings
    parts = _parts(folder, only)
    listening: Mapping[str, Sequence[socket.socket]] = {}
    if collect or (settings.collect_port and only is None):
        from questlog.collector.serve import collector_workers

        port = settings.collect_port or COLLECT_PORT
        collectors, listening = collector_workers(folder, settings.collect_host, port, workers=1)
        parts |= collectors
    code = Supervisor(forked(folder, parts, listening)).run()
    if code:
        sys.exit(code)


def _parts(folder: Path, only: str | None) -> dict[str, Part]:
    """Return what the project's profile runs, by name; each part opens the project in its own process."""
    from questlog.pipeline import open_pipeline

    pipeline = open_pipeline(folder)
    names = list(pipeline.parts)
    if only is not None and only not in names:
        raise click.UsageError(f"the {pipeline.project.settings.profile} profile has no {only}")
    return {name: partial(_run_part, name) for name in names if only in (None, name)}


def _run_part(name: str, folder: Path, stop: threading.Event, ready: Callable[[], None]) -> None:
    from questlog.pipeline import open_pipeline

    open_pipeline(folder).parts[name](stop, ready)
