"""The `questlog` command. Each command imports what it needs when it runs: help stays instant."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from questlog import __version__
from questlog.errors import QuestlogError

_COMMANDS = {
    "demo": ("questlog.cli.demo", "Run a small game and watch its requests become rows."),
    "land": ("questlog.cli.run", "Land everything logged so far, then stop."),
    "sql": ("questlog.cli.sql", "Run a SQL statement."),
    "status": ("questlog.cli.run", "Show what is accepted, landed, waiting and quarantined."),
    "up": ("questlog.cli.run", "Run what this project needs until Ctrl-C."),
}


class _Lazy(click.Group):
    """Imports a command's module only when that command runs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", default=".", metavar="DIR", help="The project folder, or one inside it.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, folder: str) -> None:
    """Record what players do in a game and query it in SQL, without losing an event."""
    context.obj = Path(folder)


def main() -> None:
    """Run the command line; errors are a sentence and a hint, never a stack trace."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except QuestlogError as error:
        click.echo(f"questlog: {error}", err=True)
        if error.hint:
            click.echo(f"  try: {error.hint}", err=True)
        sys.exit(error.exit_code)
