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
from questlog.durable import FileLock, make_folder
from questlog.errors import QuestlogError
from questlog.pipeline import open_pipeline
from questlog.stopping import stopping

if TYPE_CHECKING:
    from questlog.export import Exported


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--into", default="", metavar="NAME", help="Folder to write to; on the cluster profile a database.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def export(folder: Path, tables: tuple[str, ...], into: str, as_json: bool) -> None:
    """Write TABLEs, or all tables, as plain Parquet: Snappy, one folder per day (UTC) of received time.

    \b
    questlog export                        every table
    questlog export sword_purchases        one of them
    questlog export --into /data/parquet   somewhere else

    Run it as often as you like: it rewrites only days whose rows may have changed, and deletes days without
    rows. If interrupted, it resumes.

    On the embedded profile <NAME>/<table>/day=2026-11-24/data.parquet holds every acknowledged event, landed or
    not. Without --into, NAME is `export` in the data folder. Files are replaced atomically: a reader sees the
    whole old day or the whole new one.

    On the cluster profile Spark writes the landed events below the warehouse and registers external tables in
    database NAME of the Hive Metastore (by default the namespace plus `_export`). Presto's hive catalog, Hive and
    Spark with enableHiveSupport read them. A day switches to its new files atomically, so a reader that goes
    through the Metastore sees the whole old day or the whole new one. Replaced files are kept for an hour for
    running queries. Readers that list the directories may see both versions for that hour.

    Timestamps are UTC. They are INT96, which has no time zone: Spark shifts them if its session time zone differs.
    """
    pipeline = open_pipeline(folder)
    with pipeline, _alone(pipeline.project.data), stopping() as stop, counting("export") as show:
        exported = pipeline.export(into).run(tables, stop, show)
        stopped = stop.is_set()
    if as_json:
        click.echo(json.dumps({"tables": {n: asdict(one) for n, one in exported.items()}, "stopped": stopped}))
    else:
        click.echo(_text(exported))
    if stopped:
        raise click.Abort


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    make_folder(data)
    busy = QuestlogError(f"another process is exporting {data}", hint="wait until it is done")
    with FileLock(data / "export.lock").held(busy):
        yield


def _text(exported: Mapping[str, Exported]) -> str:
    lines = []
    for name, one in sorted(exported.items()):
        parts = [f"{name}: {one.rows:,} rows in {len(one.written):,} day(s) written"]
        parts += [f"{one.unchanged:,} unchanged"] if one.unchanged else []
        parts += [f"{len(one.dropped):,} deleted"] if one.dropped else []
        lines.append(", ".join(parts))
    return "\n".join(lines) or "there are no tables yet"
