"""`questlog stack`: the cluster's servers as local processes, to try the cluster profile, for development and tests."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.terminal import draw, uses_color
from questlog.errors import ProjectNotFound, QuestlogError
from questlog.printable import escape
from questlog.settings import find_project, load_settings

if TYPE_CHECKING:
    from questlog.stack import Stack

_SERVERS = "kafka, namenode, datanode, metastore, presto, trino, spark, spark-worker"


@click.group()
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for the servers' data.  [default: in the project's data folder]")  # fmt: skip
@click.pass_context
def stack(context: click.Context, directory: Path | None) -> None:
    """Run Kafka, HDFS, Hive Metastore and Presto on this machine, for a first look, development and tests.

    `questlog stack up` downloads what is missing (1.1 GB, once for all projects), starts every server, and runs
    them until Ctrl-C. The data is kept. None of this is meant for production.
    """
    context.obj = (context.obj, directory)


def _stack(where: tuple[Path, Path | None], only: str = "", also: Sequence[str] = ()) -> Stack:
    """Return the project's stack, or the one in the folder that --dir names."""
    from questlog.stack import Stack

    folder, directory = where
    if directory is None:
        try:
            project = find_project(folder)
        except ProjectNotFound as error:
            raise ProjectNotFound(str(error), hint="questlog init starts a project; --dir DIR needs none") from error
        directory, settings = project.data / "stack", project.settings
    else:
        settings = load_settings(Path("questlog.toml"))
    names = [name.strip() for name in only.split(",") if name.strip()]
    return Stack(directory, ports=settings.stack_ports, only=names, also=also)


class _Lines:
    """Shows progress: on a terminal one line that changes, elsewhere a line at most every two seconds."""

    def __init__(self) -> None:
        self._live, self._last, self._shown = sys.stderr.isatty() and uses_color(), 0.0, False

    def __call__(self, line: str) -> None:
        now = time.monotonic()
        if self._live:
            draw(f"\r\x1b[K{escape(line)[:100]}", newline=False, error=True)
            self._shown = True
        elif now - self._last > 2:  # a build log needs signs of life, not every file
            self._last = now
            click.echo(line, err=True)

    def end(self) -> None:
        if self._shown:
            draw("\r\x1b[K", newline=False, error=True)


@stack.command()
@click.argument("parts", nargs=-1)
def fetch(parts: tuple[str, ...]) -> None:
    """Download the servers from Maven Central: everything except Trino and S3, or only PARTS.

    Files that are already here are not downloaded again, and an interrupted download resumes. Every file is
    verified against its recorded checksum. All projects share the files, in the user's cache folder.
    """
    from questlog.stack import fetch as download

    unknown = [part for part in parts if part not in (*download.PARTS, *download.OPTIONAL)]
    if unknown:
        names = ", ".join((*download.PARTS, *download.OPTIONAL))
        raise click.UsageError(f"there is no part {unknown[0]}; parts: {names}")
    for part in parts or download.PARTS:
        show = _Lines()
        started = time.monotonic()
        folder = download.fetch(part, lambda line, part=part, show=show: show(f"{part}: {line}"))  # type: ignore[misc]
        show.end()
        click.echo(f"{part:<10} {folder} ({time.monotonic() - started:.0f} s)")


@stack.command()
@click.option("--only", default="", metavar="NAMES", help=f"Start only these servers, separated by commas: {_SERVERS}.")
@click.option("--trino", is_flag=True, help="Also start Trino: downloads 0.8 GB more, and needs Java 24 or newer.")
@click.option("--spark", is_flag=True, help="Also start a standalone Spark master and worker.")
@click.option("-d", "--detach", is_flag=True, help="Return once every server is healthy; `down` stops them.")
@click.pass_obj
def up(where: tuple[Path, Path | None], only: str, trino: bool, spark: bool, detach: bool) -> None:
    """Start the servers and run them until Ctrl-C.

    A server is healthy once it has done real work: Kafka has returned a record, HDFS a file, the metastore its
    databases, Presto the result of a query. A server that dies is restarted.
    """
    mine = _stack(where, only, [name for name, wanted in (("trino", trino), ("spark", spark)) if wanted])
    started = time.monotonic()
    if detach:
        show = _Lines()
        try:
            mine.up(show)
        finally:
            show.end()
    else:
        _keep(mine)
        return
    click.echo(f"up after {time.monotonic() - started:.0f} s")
    _addresses(mine)


def _keep(mine: Stack) -> None:
    from questlog.stack.supervisor import StackSupervisor

    show = _Lines()
    mine.fetch(show)
    show.end()
    supervisor = StackSupervisor(mine.settle(), mine.servers, lambda line: click.echo(line, err=True))
    announced = False

    def announce() -> bool:
        nonlocal announced
        if not announced and supervisor.ready():
            announced = True
            _addresses(mine)
            click.echo("Ctrl-C stops the servers; their data is kept", err=True)
        return True

    supervisor.run(announce)


def _addresses(mine: Stack) -> None:
    optional = {server.option for server in mine.servers}
    for name, address in asdict(mine.addresses).items():
        if name not in ("trino", "spark") or name in optional:
            click.echo(f"{name:<10} {address}")


@stack.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(where: tuple[Path, Path | None], as_json: bool) -> None:
    """Check every server with a real operation and print the result. Exits with 1 unless all are healthy."""
    servers = _stack(where).status()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in servers], indent=2))
    else:
        for each in servers:
            color = "green" if each.healthy else "red"
            state = f"{each.state:<11}"
            shown = click.style(state, fg=color) if sys.stdout.isatty() and uses_color() else state
            more = f", {each.restarts} restarts" if each.restarts else ""
            draw(f"{each.name:<12} {shown} {each.port:>5}  {each.memory_mb:>5.0f} MB{more}  {escape(each.found)}")
    if not all(each.healthy for each in servers):
        raise SystemExit(1)


@stack.command()
@click.pass_obj
def down(where: tuple[Path, Path | None]) -> None:
    """Stop every server of this stack, and no other process. Their data is kept."""
    show = _Lines()
    ran = _stack(where).down(show)
    show.end()
    click.echo("stopped; the data is kept" if ran else "nothing was running")


@stack.command()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.pass_obj
def reset(where: tuple[Path, Path | None], yes: bool) -> None:
    """Delete everything that the servers store: topics, files, tables."""
    mine = _stack(where)
    if not yes:
        click.confirm(f"delete every topic, file and table in {mine.folder}?", abort=True)
    mine.reset()
    click.echo("deleted")


@stack.command()
@click.argument("server")
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines until Ctrl-C.")
@click.option("-n", "--lines", default=50, show_default=True, help="Number of last lines to print; 0 prints all.")
@click.pass_obj
def logs(where: tuple[Path, Path | None], server: str, follow: bool, lines: int) -> None:
    """Print the log of SERVER, or of the `supervisor`."""
    path = _stack(where).folder / "logs" / f"{server}.log"
    if not path.exists():
        names = ", ".join(sorted(log.stem for log in path.parent.glob("*.log"))) or "none yet"
        raise QuestlogError(f"{server} has no log", hint=f"logs: {names}")
    with path.open("rb") as file:
        text = file.read().splitlines(keepends=True)
        sys.stdout.buffer.write(b"".join(text[-lines:] if lines else text))
        sys.stdout.buffer.flush()
        while follow:
            if more := file.read():
                sys.stdout.buffer.write(more)
                sys.stdout.buffer.flush()
            else:
                time.sleep(0.2)


@stack.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("tool")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def exec_(where: tuple[Path, Path | None], tool: str, arguments: tuple[str, ...]) -> None:
    """Run a tool on the stack. Addresses and catalogs are filled in unless ARGUMENTS name others.

    \b
      questlog stack exec kafka-topics --list
      questlog stack exec kcat -C -t events -o beginning -e
      questlog stack exec hadoop fs -ls -R /warehouse
      questlog stack exec presto --execute 'show tables'
      questlog stack exec trino --execute 'show tables'
      questlog stack exec spark-sql -e 'show tables in lake.swords'
      questlog stack exec spark-submit job.py
    """
    from questlog.stack.tools import build

    command, more = build(_stack(where).layout, tool, arguments, _schema(where[0]))
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, **more})


def _schema(folder: Path) -> str:
    """Return the schema that has the project's tables."""
    try:
        return find_project(folder).settings.namespace
    except QuestlogError:
        return "default"
