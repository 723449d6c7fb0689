"""`questlog sql`: statements from the command line, a file, standard input or the shell."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from questlog.cli.progress import waiting
from questlog.cli.rows import BINARY, FORMATS, aligned, write_rows
from questlog.cli.terminal import terminal_width, uses_color
from questlog.query.text import split_statements

if TYPE_CHECKING:
    from questlog.pipeline import Pipeline

__all__ = ["aligned", "sql"]

MAX_ROWS = 1000
_SUFFIXES = {
    ".csv": "csv", ".json": "json", ".ndjson": "ndjson", ".jsonl": "ndjson", ".parquet": "parquet",
    ".arrow": "arrow", ".txt": "table",
}  # fmt: skip


@click.command()
@click.argument("statements", required=False)
@click.option("-f", "--file", "file", type=click.File("r", encoding="utf-8"), help="Read statements from FILE.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Output format.  [default: table]")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write rows to FILE.")
@click.option("--max-rows", type=click.IntRange(min=0), help="Print at most this many rows per table; 0 prints all.")
@click.option("--check", is_flag=True, help="Report SQL that is not portable, without running it.")
@click.option("-x", "--expanded", is_flag=True, help="Print one line per value.")
@click.option(
    "--safe",
    is_flag=True,
    help="For CSV that a spreadsheet opens: put an apostrophe before cells that begin with =, +, -, @, tab or "
    "carriage return, so that none runs as a formula. Numbers stay as they are.",
)
@click.pass_obj
def sql(
    folder: Path,
    statements: str | None,
    file: Any,
    format_: str | None,
    as_json: bool,
    output: Path | None,
    max_rows: int | None,
    expanded: bool,
    check: bool,
    safe: bool,
) -> None:
    """Run STATEMENTS over everything acknowledged so far.

    Separate several statements with semicolons. Without STATEMENTS they are read from standard input; on a
    terminal a shell starts. A terminal shows the first 1,000 rows of a table.
    """
    if statements is not None and file is not None:
        raise click.UsageError("give statements or --file, not both")
    if check:
        _check(statements if statements is not None else (file or sys.stdin).read(), as_json)
        return
    _skip_numpy()
    from questlog.pipeline import open_pipeline

    chosen = "json" if as_json else format_ or (_SUFFIXES.get(output.suffix.lower()) if output else None) or "table"
    if safe and chosen != "csv":
        raise click.UsageError(f"--safe is for CSV, not for {chosen}")
    with open_pipeline(folder) as pipeline:
        if statements is None and file is None and output is None and sys.stdin.isatty() and sys.stdout.isatty():
            from questlog.cli.shell import Shell

            Shell(pipeline, chosen, max_rows, expanded or None).run()
            return
        text = statements if statements is not None else (file or sys.stdin).read()
        parts = split_statements(text)
        if chosen in BINARY and len(parts) > 1:
            raise click.UsageError(f"{chosen} holds the rows of one statement, not of {len(parts)}")
        if chosen in BINARY and output is None and sys.stdout.isatty():
            raise click.UsageError(f"{chosen} is not for a terminal; use --output FILE")
        with _target(output) as out, _exit_on_closed_pipe(out):
            _print_all(pipeline, parts, chosen, out, max_rows, expanded or None, safe)


def _check(text: str, as_json: bool) -> None:
    """Print each construct that is not portable on a line, as compilers do; exit with 1 if there is any."""
    from questlog.query.portable import check_portable

    problems = check_portable(text)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in problems], indent=2))
    for each in problems if not as_json else ():
        click.echo(f"{each.line}:{each.column}: {each.what}" + (f": {each.instead}" if each.instead else ""))
    if problems:
        raise SystemExit(1)
    if not as_json:
        click.echo("portable: DuckDB, Presto and Spark give it the same meaning")


def _print_all(
    pipeline: Pipeline,
    parts: Sequence[str],
    format_: str,
    out: BinaryIO,
    max_rows: int | None,
    expanded: bool | None,
    safe: bool,
) -> None:
    shown = terminal_width(out) is not None
    for number, statement in enumerate(parts):
        with waiting("the query has been running for"):
            result = pipeline.sql(statement)
        if number and format_ == "table":
            out.write(b"\n")
        write_rows(
            result,
            format_,
            out,
            width=terminal_width(out),
            max_rows=max_rows if max_rows is not None else MAX_ROWS if shown else 0,
            color=shown and uses_color(),
            expanded=expanded,
            safe=safe,
        )


def _skip_numpy() -> None:
    """Keep pyarrow from importing numpy and pandas: that takes up to a second, and no output format needs them."""
    if "pyarrow" not in sys.modules and "numpy" not in sys.modules:
        sys.modules["numpy"] = None  # type: ignore[assignment]


@contextlib.contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Yield standard output, or a file that appears under its name only when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        return
    try:
        handle, draft = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or str(error)) from error
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        os.chmod(draft, 0o666 & ~_umask())
        os.replace(draft, output)
    except BaseException:
        os.unlink(draft)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def _exit_on_closed_pipe(out: BinaryIO) -> Iterator[None]:
    """Exit without a message when the reader of a pipe, such as `head`, has closed it."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())  # otherwise Python reports an error when it flushes at exit
        raise
