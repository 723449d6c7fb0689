"""`questlog plan suggest`: suggest additions to the plan, from events that were sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from questlog.cli.progress import waiting
from questlog.durable import write_file
from questlog.errors import ProjectNotFound, QuestlogError

if TYPE_CHECKING:
    from questlog.pipeline import Pipeline
    from questlog.suggest import Suggester, Suggestion


@click.command(short_help="Suggest additions to the plan, from events that were sent.")
@click.argument("events", nargs=-1, metavar="[EVENTS]...")
@click.option("-f", "--file", type=click.Path(dir_okay=False), help="Plan to add to.  [default: the project's]")
@click.option("--whole", is_flag=True, help="Print the whole plan, with the additions in place.")
@click.option("--write", is_flag=True, help="Write the whole plan to its file instead of printing it.")
@click.option(
    "--limit", default=100_000, show_default=True, type=click.IntRange(min=1), help="Read at most this many events."
)
@click.pass_obj
def suggest(folder: Path, events: tuple[str, ...], file: str | None, whole: bool, write: bool, limit: int) -> None:
    """Print events and fields that were sent but are missing from the plan, with types that fit all values.

    EVENTS are files of JSON Lines: plain, gzip or zstd; - is standard input. By default this command reads the
    project's own data: events in quarantine, and fields in _rescued. If there is no plan yet, it prints a whole
    one. The output is always a valid plan.

    \b
      questlog plan suggest events.jsonl > plan.toml     a first plan
      questlog plan suggest                              additions to this project's plan
      questlog plan suggest --write                      write them; comments are kept
    """
    from questlog.plan import Envelope, Plan
    from questlog.plan.load import parse_plan, read_text
    from questlog.settings import find_project
    from questlog.suggest import GUESSED_FROM, Suggester, guess_envelope

    path = Path(file) if file is not None else None
    if path is None:
        try:
            path = find_project(folder).plan_path
        except ProjectNotFound:
            if not events or write:
                raise
    text = read_text(path) if path is not None else ""
    plan = parse_plan(text, str(path)) if path is not None else Plan("game", "")
    fresh = not plan.events
    if events:
        raws = _lines(events, limit)
        if fresh and plan.envelope == Envelope():
            first = list(islice(raws, GUESSED_FROM))
            plan, raws = replace(plan, envelope=guess_envelope(first)), chain(first, raws)
        suggester = Suggester(plan)
        for raw in raws:
            suggester.add(raw)
    else:
        from questlog.pipeline import open_pipeline

        suggester = Suggester(plan)
        with open_pipeline(folder) as pipeline:
            _read_project(pipeline, suggester, limit)
    _print(suggester.finish(), text, path if write else None, whole, fresh)


def _lines(files: tuple[str, ...], limit: int) -> Iterator[bytes]:
    from questlog.importer import Source

    def all_lines() -> Iterator[bytes]:
        for file in files:
            source = Source(file)
            try:
                yield from (line for line in source.lines() if line.strip())
            finally:
                source.close()

    return islice(all_lines(), limit)


def _read_project(pipeline: Pipeline, suggester: Suggester, limit: int) -> None:
    """Read the project's quarantined events and rescued fields."""
    with waiting("events have been read for"):
        _read_tables(pipeline, suggester, limit)


def _read_tables(pipeline: Pipeline, suggester: Suggester, limit: int) -> None:
    for table in pipeline.plan.tables:
        counts = pipeline.sql(f'select event_type, count(*) from "{table}" group by event_type').rows()
        totals = {name: count for name, count in counts if name in pipeline.plan.events}
        question = f'select event_type, _rescued from "{table}" where _rescued is not null'
        rows = pipeline.sql(f"{question} order by received_time desc limit $1", [limit]).rows()
        for name, rescued in rows:
            if name in totals:
                suggester.add_rescued(name, rescued.encode(), totals[name])
                totals[name] = 0
    quarantined = "select raw_event from quarantine where reason <> 'log_damaged' order by received_time desc limit $1"
    for (raw,) in pipeline.sql(quarantined, [limit]).rows():
        suggester.add(raw.encode())


def _print(suggestion: Suggestion, text: str, path: Path | None, whole: bool, fresh: bool) -> None:
    """Print or write the suggestion. What was left out, and a count, go to standard error."""
    from questlog.plan.render import additions, extended

    fields = sum(map(len, suggestion.fields.values())) + sum(len(event.fields) for event in suggestion.events)
    if path is not None or (whole and text):
        result = extended(text, suggestion.merged, suggestion.fields, suggestion.events, suggestion.notes)
        if not result and (fields or suggestion.events):
            raise QuestlogError(
                "additions to this plan file cannot be made automatically",
                hint="questlog plan suggest, and add by hand",
            )
    else:
        result = additions(suggestion.fields, suggestion.events, suggestion.notes)
        if fresh:
            result = _head(suggestion) + result
    if path is None:
        click.echo(result or "# Nothing is missing.", nl=not result)
    elif fields or suggestion.events:
        _replace(path, result)
    for reason in suggestion.left_out:
        click.echo(f"left out: {reason}", err=True)
    new = f"{_counted(len(suggestion.events), 'new event')}, {_counted(fields, 'new field')}"
    written = f", written to {path}" if path is not None and (fields or suggestion.events) else ""
    click.echo(f"{_counted(suggestion.read, 'event')} read: {new}{written}", err=True)


def _head(suggestion: Suggestion) -> str:
    """Return the head of a whole plan."""
    from questlog.plan.render import render

    text = f"# Suggested from {_counted(suggestion.read, 'event')}; `questlog plan check` finds mistakes.\n\n"
    if suggestion.plan.envelope.fields:
        text += f"# Fields are read from {suggestion.plan.envelope.fields!r}; all else is kept in raw_event.\n"
    return text + render(replace(suggestion.plan, events={})) + "\n"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _replace(path: Path, text: str) -> None:
    try:
        write_file(path, text)
    except OSError as error:
        raise QuestlogError(f"{path} cannot be written: {error.strerror}") from error
