"""`questlog up`, `land` and `status`: running a project and seeing how it is."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path

import click
import pyarrow as pa

from questlog.cli.sql import aligned
from questlog.lake.state import load_state
from questlog.pipeline import open_pipeline
from questlog.shape import QUARANTINE


@click.command()
@click.pass_obj
def up(folder: Path) -> None:
    """Land events as they come, until Ctrl-C. What is logged by then is landed first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    pipeline = open_pipeline(folder)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with pipeline.lander() as lander:
        click.echo(f"landing {pipeline.project.root}; Ctrl-C stops", err=True)
        lander.run(stop)


@click.command()
@click.pass_obj
def land(folder: Path) -> None:
    """Land everything logged so far, then stop."""
    with open_pipeline(folder).lander() as lander:
        landed = lander.drain()
    rows = ", ".join(f"{name} {count}" for name, count in sorted(landed.rows.items())) or "nothing new"
    click.echo(f"landed {landed.records} records: {rows}; {landed.duplicates} duplicates")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(folder: Path, as_json: bool) -> None:
    """Show per table what is landed and waiting, and the ledger that must balance."""
    pipeline = open_pipeline(folder)
    state = load_state(pipeline.project.catalog)
    accepted = sum(pipeline.log.end().values())
    read = sum(state.progress.values())
    tables = []
    for name in sorted({*pipeline.plan.tables, *state.tables, QUARANTINE}):
        total = pipeline.sql(f'select count(*) from "{name}"').rows()[0][0]
        landed = state.tables[name].rows if name in state.tables else 0
        files = len(state.tables[name].files) if name in state.tables else 0
        size = state.tables[name].bytes if name in state.tables else 0
        tables.append({"table": name, "landed": landed, "tail": total - landed, "files": files, "bytes": size})
    ledger = {
        "accepted": accepted,
        "tail": accepted - read,
        "landed": state.counts.get("landed", 0),
        "quarantined": state.counts.get("quarantined", 0),
        "duplicate": state.counts.get("duplicate", 0),
    }
    if as_json:
        click.echo(json.dumps({"ledger": ledger, "tables": tables}, indent=2))
        return
    click.echo(aligned(pa.Table.from_pylist(tables)))
    click.echo("  ".join(f"{name} {count}" for name, count in ledger.items()))
