"""`questlog export`: the tables as plain Parquet by day, for tools that cannot read Iceberg."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.progress import counting
from questlog.durable import FileLock
from questlog.errors import QuestlogError
from questlog.pipeline import open_pipeline
from questlog.stopping import stopping

if TYPE_CHECKING:
    from questlog.export import Exported


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--into", default="", metavar="NAME", help="A folder; in the cluster profile a database.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def export(folder: Path, tables: tuple[str, ...], into: str, as_json: bool) -> None:
    """Write TABLEs, or all of them, as plain Parquet: Snappy, a folder per day of received time, UTC.

    \b
    questlog export                        every table
    questlog export sword_purchases        one of them
    questlog export --into /data/parquet   somewhere else

    Run it as often as you like: only days whose rows may have changed are written again, days without rows
    are taken away. Interrupted, it goes on where it stopped.

    Embedded, <NAME>/<table>/day=2026-11-24/data.parquet holds what is acknowledged, landed or not; without
    --into, NAME is `export` in the data folder. A file is replaced in one step: who opens it reads the old
    day or the new one, whole.

    In the cluster profile Spark writes what is landed below the warehouse, and the Hive Metastore gets external
    tables in database NAME (without --into: the namespace and `_export`), which Presto's hive catalog, Hive and
    Spark's enableHiveSupport read. A day is pointed at its new files in one step, so who reads through the
    Metastore sees the old day or the new one, whole; the files it replaced stay for an hour for queries that
    run. Who lists the folders instead sees both for so long.

    Timestamps are UTC (INT96, which knows no zone: a Spark with another session time zone shows others).
    """
    pipeline = open_pipeline(folder)
    with pipeline, _alone(pipeline.project.data), stopping() as stop, counting("export") as show:
        found = pipeline.export(into).run(tables, stop, show)
        stopped = stop.is_set()
    if as_json:
        click.echo(json.dumps({"tables": {n: asdict(one) for n, one in found.items()}, "stopped": stopped}))
    else:
        click.echo(_text(found))
    if stopped:
        raise click.Abort


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    data.mkdir(parents=True, exist_ok=True)
    busy = QuestlogError(f"another process exports {data}", hint="wait until it is done")
    with FileLock(data / "export.lock").held(busy):
        yield


def _text(found: Mapping[str, Exported]) -> str:
    lines = []
    for name, one in sorted(found.items()):
        parts = [f"{name}: {one.rows:,} rows in {len(one.written):,} day(s) written"]
        parts += [f"{one.unchanged:,} unchanged"] if one.unchanged else []
        parts += [f"{len(one.dropped):,} taken away"] if one.dropped else []
        lines.append(", ".join(parts))
    return "\n".join(lines) or "there are no tables yet"
