"""`questlog completion`: a script that lets the shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    bash:  questlog completion bash >> ~/.bashrc
    zsh:   questlog completion zsh >> ~/.zshrc
    fish:  questlog completion fish > ~/.config/fish/completions/questlog.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "questlog", "_QUESTLOG_COMPLETE").source())
