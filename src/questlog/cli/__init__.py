"""The `questlog` command. Each command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from questlog import __version__
from questlog.errors import QuestlogError
from questlog.printable import protect_output

_COMMANDS = {
    "backfill": ("questlog.cli.backfill", "Re-process earlier events with the current plan."),
    "collect": ("questlog.cli.collect", "Accept events over HTTP."),
    "completion": ("questlog.cli.completion", "Print a shell completion script."),
    "demo": ("questlog.cli.demo", "Run a small game and query the events it sends."),
    "doctor": ("questlog.cli.doctor", "Check the disk, settings, versions and data."),
    "export": ("questlog.cli.export", "Write the tables as plain Parquet, for tools without Iceberg."),
    "import": ("questlog.cli.load", "Import events from JSON Lines files."),
    "init": ("questlog.cli.init", "Start a project with a commented plan."),
    "key": ("questlog.cli.key", "Create, list, rotate and revoke the collector's write keys."),
    "land": ("questlog.cli.land", "Land everything logged so far, then stop."),
    "plan": ("questlog.cli.plan", "Check, show, compare and extend the tracking plan."),
    "promote": ("questlog.cli.promote", "Move this project from a laptop to a cluster."),
    "sql": ("questlog.cli.sql", "Run SQL statements, or open an SQL shell."),
    "stack": ("questlog.cli.stack", "Run the cluster's servers on this machine."),
    "status": ("questlog.cli.status", "Show where every accepted event is."),
    "tail": ("questlog.cli.tail", "Follow events as they are accepted."),
    "topic": ("questlog.cli.topic", "Create and describe the Kafka topic of the cluster profile."),
    "up": ("questlog.cli.up", "Run what this project needs until Ctrl-C."),
}
"""Command -> module and one line of help. The module's function has the command's name, or `<name>_`."""


class _Lazy(click.Group):
    """Imports a command's module only when that command runs."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[name][0])
        command = getattr(module, name, None) or getattr(module, f"{name}_")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-C", "folder", default=".", metavar="DIR", help="The project folder, or a folder inside it.")
@click.version_option(__version__)
@click.pass_context
def cli(context: click.Context, folder: str) -> None:
    """Record what players do in a game and query it in SQL, without losing an event."""
    context.obj = Path(folder)


def main() -> None:
    """Run the command line. Errors are a sentence and a hint, never a stack trace."""
    protect_output()
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
    except OSError as error:
        click.echo(f"questlog: {error}\n  try: questlog doctor", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("pyspark", "py4j"):
            raise
        click.echo(f"questlog: Spark failed: {_reason(str(error))}", err=True)
        click.echo("  try: questlog doctor, and the settings that name servers", err=True)
        sys.exit(1)


def _reason(text: str) -> str:
    """Return the root cause of a Java stack trace, or its first line if it names no cause."""
    lines = [line.strip(": ") for line in text.strip().splitlines()] or [""]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    first = lines[1] if len(lines) > 1 and lines[0].startswith("An error occurred while calling") else lines[0]
    return (causes[-1] if causes else first)[:500]
