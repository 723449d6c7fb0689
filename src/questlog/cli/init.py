"""`questlog init`: write a first plan for a game, with every option explained in comments."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

import click

from questlog.errors import QuestlogError


@click.command()
@click.argument("directory", required=False, default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="The game's name.  [default: the folder's name]")
@click.pass_obj
def init(folder: Path, directory: Path, name: str | None) -> None:
    """Start a project in DIRECTORY (default: the current folder): write a commented plan.toml.

    An existing plan is never changed.
    """
    root = folder / directory
    plan = root / "plan.toml"
    around = _project_around(root)
    text = starter(name or root.resolve().name or "game")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with plan.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise QuestlogError(
            f"{plan} already exists; nothing was changed", hint=f"questlog -C {shlex.quote(str(root))} plan check"
        ) from error
    except NotADirectoryError as error:
        raise QuestlogError(f"{root} is not a folder; nothing was changed", hint="questlog init DIRECTORY") from error
    click.echo(f"wrote {plan}")
    if around is not None:
        click.echo(
            f"note: this folder lies in another project, {around}; commands run from here now use this one", err=True
        )
    where = "" if root.resolve() == Path.cwd() else f"cd {shlex.quote(str(root))}\n  "
    click.echo(_NEXT.format(where=where))


_NEXT = """
Next:
  {where}edit plan.toml         declare the events that your game sends
  questlog plan check    find mistakes in it
  questlog plan show     see the tables it defines

In a Flask app, Questlog(app) and track("purchase", item="sword") record events. Import other events as JSON Lines:
  echo '{{"event_type": "purchase", "item": "sword", "price": 5}}' | questlog import -
  questlog sql "select item, price, currency from purchases"
  questlog up            keep moving events into tables

Keep plan.toml in version control. Keep .questlog/, the data folder, out of it."""


def starter(name: str) -> str:
    """Return the commented starter plan of a game called *name*."""
    import textwrap

    from questlog.plan.parse import WORDS
    from questlog.plan.render import toml

    text = resources.files("questlog.cli").joinpath("starter.toml").read_text("utf-8")
    shown = name if name.isprintable() else "this game"
    types = textwrap.fill(", ".join(WORDS), 100, break_long_words=False).replace("\n", "\n#   ")
    return text.replace("TYPES", types, 1).replace('"NAME"', toml(name)).replace("NAME", shown, 1)


def _project_around(root: Path) -> Path | None:
    """Return the other project that *root* lies in, if any."""
    from questlog.settings import find_project

    try:
        project = find_project(root).root
    except QuestlogError:  # there is none, or its settings are invalid
        return None
    return project if project != root.resolve() else None
