"""`questlog plan`: check, show, compare and extend the tracking plan. Each command imports what it needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from questlog.cli.suggest import suggest
from questlog.errors import PlanError, ProjectNotFound
from questlog.printable import clean

if TYPE_CHECKING:
    from questlog.plan import Event, Field, Plan
    from questlog.plan.load import Fault
    from questlog.settings import Project

_FILE = click.argument("file", required=False, type=click.Path(allow_dash=True, dir_okay=False))
_FILE_OPTION = click.option(
    "-f", "--file", type=click.Path(allow_dash=True, dir_okay=False), help="The plan to read; - is standard input."
)
_DIALECTS = ("duckdb", "spark", "presto")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def plan() -> None:
    """Check, show, compare and extend the tracking plan.

    The plan, `plan.toml`, declares which events a game sends and which typed fields they have. Every event
    becomes a table, every field a column. By default these commands read the plan of the project in the
    current folder or in one above it.

    \b
      questlog init                      write a first plan
      questlog plan check                find every fault in it
      questlog plan suggest              find events and fields that it lacks
      questlog plan diff old.toml new.toml
      questlog plan ddl --dialect presto
    """


plan.add_command(suggest)


@plan.command(short_help="Check a plan and list every fault.")
@_FILE
@_JSON
@click.pass_obj
def check(folder: Path, file: str | None, as_json: bool) -> None:
    """Check a plan and list every fault, each with its line and the nearest valid word.

    FILE is the project's plan by default; - is standard input. The project's own plan is also compared with
    the existing tables. Exits with 1 if there is a fault.
    """
    name, text = _read(folder, file)
    checked, faults = _check(name, text)
    if checked is not None:
        faults = _table_faults(folder, file, checked, text)
    if as_json:
        click.echo(json.dumps(_report(name, checked, faults), indent=2, ensure_ascii=False))
    else:
        for fault in faults:
            path = f" {fault.path}:" if fault.path else ""
            click.echo(f"{name}:{fault.line}:{path} {fault.message}")
        if faults:
            click.echo(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in {name}", err=True)
        else:
            assert checked is not None
            click.echo(f"{name} is valid: {_counts(checked)}, version {checked.version}")
    if faults:
        sys.exit(1)


def _report(name: str, plan: Plan | None, faults: list[Fault]) -> dict[str, Any]:
    report: dict[str, Any] = {"file": name, "right": not faults}
    if plan is not None:
        report |= {"version": plan.version, "events": len(plan.events)}
    return report | {"faults": [{"line": f.line, "path": f.path, "message": f.message} for f in faults]}


def _counts(plan: Plan) -> str:
    events, fields = len(plan.events), sum(len(event.fields) for event in plan.events.values())
    return f"{events} event{'' if events == 1 else 's'}, {fields} field{'' if fields == 1 else 's'}"


def _read(folder: Path, file: str | None) -> tuple[str, str]:
    """Return the name and text of the plan to read."""
    from questlog.plan.load import read_text
    from questlog.settings import find_project

    if file == "-":
        return "standard input", sys.stdin.read()
    path = Path(file) if file is not None else find_project(folder).plan_path
    name = str(path)
    if file is None:
        name = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return name, read_text(path)


def _load(folder: Path, file: str | None) -> Plan:
    """Return the plan to read; raise `PlanError` if it has faults."""
    from questlog.plan.load import parse_plan

    name, text = _read(folder, file)
    return parse_plan(text, name)


def _check(name: str, text: str) -> tuple[Plan | None, list[Fault]]:
    from questlog.plan.load import check_plan

    return check_plan(text)


def _own_project(folder: Path, file: str | None) -> Project | None:
    """Return the project, if *file* is its plan."""
    from questlog.settings import find_project

    try:
        project = find_project(folder)
    except ProjectNotFound:
        return None
    mine = file is None or (file != "-" and Path(file).resolve() == project.plan_path.resolve())
    return project if mine else None


def _table_faults(folder: Path, file: str | None, plan: Plan, text: str) -> list[Fault]:
    """Return where the existing tables cannot follow the plan."""
    project = _own_project(folder, file)
    if project is None or not project.catalog.exists():
        return []
    from contextlib import closing

    from questlog.lake.evolve import refuse_breaking
    from questlog.lake.state import connect
    from questlog.plan.lines import key_lines
    from questlog.plan.load import Fault, dotted

    lines = {dotted(where): line for where, line in key_lines(text).items()}
    with closing(connect(project.catalog)) as connection:
        try:
            refuse_breaking(plan, connection)
        except PlanError as error:
            parts = [fault.split(": ", 1) for fault in error.faults]
            return sorted(Fault(lines.get(path, 1), path, message) for path, message in parts)
    return []


@plan.command(short_help="Show events, tables and fields.")
@click.argument("events", nargs=-1, metavar="[EVENT]...")
@_FILE_OPTION
@_JSON
@click.pass_obj
def show(folder: Path, events: tuple[str, ...], file: str | None, as_json: bool) -> None:
    """Show EVENTs, or all events of the plan: their tables and fields."""
    loaded = _load(folder, file)
    chosen = [_event(loaded, event) for event in events] or list(loaded.events.values())
    if as_json:
        click.echo(json.dumps(_as_json(loaded, chosen), indent=2, ensure_ascii=False))
        return
    if not events:
        click.echo(f"{loaded.game}: {_counts(loaded)}, version {loaded.version}")
        if loaded.headers:
            click.echo(f"headers kept: {', '.join(loaded.headers)}")
    for number, event in enumerate(chosen):
        if number or not events:
            click.echo()
        click.echo(_shown(loaded, event), nl=False)


def _event(plan: Plan, name: str) -> Event:
    from questlog.plan.parse import nearest

    if name not in plan.events:
        hint = nearest(name, plan.events) or f"; the events are {', '.join(plan.events) or 'none'}"
        raise click.UsageError(f"event {name!r} is not in the plan{hint}")
    return plan.events[name]


def _shown(plan: Plan, event: Event) -> str:
    """Return one event as text: its table, description, sources, and its fields in columns."""
    from questlog.cli.rows import table_text
    from questlog.cli.terminal import terminal_width

    lines = [f"{event.name} -> table {event.table}, {_MODES[event.mode]}"]
    if event.description:
        lines.append(f"  {clean(event.description)}")
    if event.owner:
        lines.append(f"  owner: {clean(event.owner)}")
    if event.match:
        lines.append("  matched by: " + ", ".join(f"{path} = {value!r}" for path, value in event.match))
    lines += [f"  recorded by: {route}" for route, name in plan.routes.items() if name == event.name]
    text = "\n".join(lines) + "\n"
    if event.fields:
        rows = [(field.name, str(field.type), _options(field), field.description) for field in event.fields]
        width = terminal_width(sys.stdout.buffer)
        heads = ("field", "type", "options", "description")
        table = table_text(heads, rows, (False,) * 4, width=width and max(width - 2, 40), expanded=False)
        text += "".join(f"  {line}".rstrip() + "\n" for line in table.splitlines())
    return text


_MODES = {
    "quarantine": "else quarantined",
    "observe": "keeps what fits",
    "reject": "else refused",
}


def _options(field: Field) -> str:
    from questlog.plan.render import changed, toml

    options = {key: value for key, value in changed(field).items() if key not in ("name", "type", "description")}
    return ", ".join(key if value is True else f"{key} = {toml(value)}" for key, value in options.items())


def _as_json(plan: Plan, events: list[Event]) -> dict[str, Any]:
    from dataclasses import asdict

    from questlog.plan.jsonschema import as_json
    from questlog.plan.render import changed

    def document(field: Field) -> dict[str, Any]:
        options = {key: as_json(value) for key, value in changed(field).items() if key not in ("name", "type")}
        return {"type": str(field.type), **options}

    return {
        "game": plan.game,
        "description": plan.description,
        "version": plan.version,
        "headers": list(plan.headers),
        "envelope": asdict(plan.envelope),
        "routes": dict(plan.routes),
        "dedup_hours": plan.dedup_hours,
        "events": {
            event.name: {
                "table": event.table,
                "mode": event.mode,
                "description": event.description,
                "owner": event.owner,
                "match": dict(event.match),
                "fields": {field.name: document(field) for field in event.fields},
            }
            for event in events
        },
    }


@plan.command(short_help="Print a JSON Schema for events.")
@click.argument("event", required=False)
@_FILE_OPTION
@click.pass_obj
def schema(folder: Path, event: str | None, file: str | None) -> None:
    """Print the JSON Schema (2020-12) of EVENT, or of all events in the plan.

    Events that are valid under this schema become rows, so senders can check them before sending.
    """
    from questlog.plan.jsonschema import event_schema, plan_schema

    loaded = _load(folder, file)
    body = plan_schema(loaded) if event is None else event_schema(loaded, _event(loaded, event).name)
    click.echo(json.dumps(body, indent=2, ensure_ascii=False))


@plan.command(short_help="Print CREATE TABLE statements for an engine.")
@click.option("--dialect", type=click.Choice(_DIALECTS), required=True, help="SQL dialect.")
@_FILE_OPTION
@click.pass_obj
def ddl(folder: Path, dialect: str, file: str | None) -> None:
    """Print CREATE TABLE statements for the plan's tables, with descriptions as comments.

    questlog creates its own tables; use these statements to create the same tables elsewhere.
    """
    from questlog.plan.ddl import create_statements

    for statement in create_statements(_load(folder, file), dialect):
        click.echo(f"{statement};\n")


@plan.command(short_help="Show what a plan change does to existing tables.")
@click.argument("old", type=click.Path(allow_dash=True, dir_okay=False))
@click.argument("new", required=False, type=click.Path(allow_dash=True, dir_okay=False))
@_JSON
@click.pass_obj
def diff(folder: Path, old: str, new: str | None, as_json: bool) -> None:
    """Show the changes from plan OLD to plan NEW, and the effect of each on existing tables.

    NEW is the project's plan by default; - is standard input, as in
    `git show HEAD:plan.toml | questlog plan diff -`.

    \b
      breaking   landing refuses to start; the message suggests an alternative
      widening   a column gets a wider type in place; every value is kept
      additive   new tables and columns; existing rows do not change
      neutral    no column changes: rules, descriptions, deprecated fields

    Exits with 1 if a change is breaking.
    """
    from dataclasses import asdict

    from questlog.plan.diff import KINDS, diff_plans

    if old == "-" and new == "-":
        raise click.UsageError("only one of OLD and NEW can be standard input")
    before, after = _load(folder, old), _load(folder, new)
    changes = diff_plans(before, after)
    counts: dict[str, int] = {kind: sum(change.kind == kind for change in changes) for kind in KINDS}
    if as_json:
        report: dict[str, Any] = {
            "old": before.version,
            "new": after.version,
            **counts,
            "changes": [asdict(c) for c in changes],
        }
        click.echo(json.dumps(report | counts, indent=2, ensure_ascii=False))
    else:
        for change in changes:
            click.echo(f"{change.kind:<8}  {change.path}: {change.what}\n{'':10}{change.effect}")
        total = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        click.echo(f"{before.version} -> {after.version}: {total or 'no difference'}")
    if counts["breaking"]:
        sys.exit(1)
