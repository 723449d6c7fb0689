"""A command is one module and one row."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from questlog import cli

HERE = Path(cli.__file__).parent
COMMANDS = cli.cli.list_commands(click.Context(cli.cli))  # type: ignore[attr-defined]


def defines_a_command(path: Path) -> bool:
    decorators = [
        ast.unparse(decorator)
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    ]
    return any("click.command" in each or ".command(" in each or "click.group" in each for each in decorators)


def commands_below(group: click.Command) -> Iterator[click.Command]:
    yield group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands_below(command)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    ran = CliRunner().invoke(cli.cli, [name, "--help"])
    assert (ran.exit_code, ran.output.startswith("Usage: ")) == (0, True), ran.output


def test_every_module_that_defines_a_command_can_be_reached() -> None:
    reached = {command.callback.__module__ for command in commands_below(cli.cli) if command.callback is not None}
    assert {f"questlog.cli.{path.stem}" for path in HERE.glob("[!_]*.py") if defines_a_command(path)} - reached == set()
