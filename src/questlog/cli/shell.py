"""The SQL shell: history, completion of tables and columns, statements over several lines until `;`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.formatted_text import HTML
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from questlog.cli.progress import waiting
from questlog.cli.rows import BINARY, FORMATS, write_rows
from questlog.cli.terminal import terminal_width, uses_color
from questlog.errors import QuestlogError
from questlog.printable import drawing
from questlog.query.text import is_complete, split_statements

if TYPE_CHECKING:
    from questlog.pipeline import Pipeline
    from questlog.query.catalog import TableColumns

MAX_ROWS = 1000
_SHOWN_FORMATS = tuple(name for name in FORMATS if name not in BINARY)
_HELP = """\
End each statement with a semicolon; it may span several lines. Tab completes; the arrow keys recall statements.

  show tables;            every table and view
  describe NAME;          the columns of a table, with the plan's descriptions
  .format NAME            output format: {formats}
  .expanded on|off|auto   one line per value
  .quit                   leave; Ctrl-D does too

Ctrl-C discards the statement you are typing, or stops the one that is running.
"""
_KEYWORDS = (
    "select", "from", "where", "group by", "order by", "limit", "having", "join", "left join", "on", "using", "as",
    "and", "or", "not", "in", "is null", "between", "like", "distinct", "count", "sum", "avg", "min", "max", "case",
    "when", "then", "else", "end", "with", "union all", "over", "partition by", "asc", "desc", "date", "interval",
    "timestamp", "cast", "show tables", "show schemas", "show columns from", "show create table", "describe", "explain",
)  # fmt: skip
_WORD = re.compile(r"\w*$")


class Names(Completer):
    """Completes table names, columns of the tables in the statement (or of all tables), and SQL keywords."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._tables: TableColumns = {}
        self._read = -1e9

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Return the possible completions, tables first."""
        match = _WORD.search(document.text_before_cursor)
        word = match.group() if match else ""
        if not word and not event.completion_requested:
            return
        tables = self._current_tables()
        words = set(document.text.lower().replace("(", " ").replace(",", " ").replace(";", " ").split())
        chosen = [name for name in tables if name.lower() in words] or list(tables)
        columns = {column.name: (name, column.sql_type) for name in chosen for column in tables[name]}
        offered = [(name, "table") for name in tables]
        offered += [
            (name, f"{type_}, {table}" if len(chosen) == 1 else type_) for name, (table, type_) in columns.items()
        ]
        offered += [(name, "") for name in _KEYWORDS]
        for name, what in offered:
            if name.lower().startswith(word.lower()) and name.lower() != word.lower():
                yield Completion(name, -len(word), display_meta=what)

    def _current_tables(self) -> TableColumns:
        """Return the tables, at most five seconds old: the plan may change while the shell is open."""
        if time.monotonic() - self._read > 5:
            try:
                self._tables = self._pipeline.engine.tables()
            except QuestlogError:  # the statement itself will report it
                return self._tables
            self._read = time.monotonic()
        return self._tables


class Shell:
    """Reads statements from a terminal and prints their rows until the user leaves."""

    def __init__(self, pipeline: Pipeline, format_: str, max_rows: int | None, expanded: bool | None) -> None:
        self._pipeline = pipeline
        self._format, self._expanded = format_, expanded
        self._max_rows = MAX_ROWS if max_rows is None else max_rows
        self._session: PromptSession[str] = PromptSession(
            history=_history(pipeline.project.data),
            output=create_output(drawing(sys.stdout)),
            completer=Names(pipeline),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation=lambda width, line, wrapped: " " * (width - 5) + "...> ",
            enable_open_in_editor=True,
        )

    def run(self) -> None:
        """Run until Ctrl-D or `.quit`."""
        click.echo(f"questlog {self._pipeline.project.root}: .help for help, Ctrl-D to leave", err=True)
        prompt = HTML("<b>questlog></b> ") if uses_color() else "questlog> "
        while True:
            try:
                text = self._session.prompt(prompt).strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text.rstrip(";").strip().lower() in (".quit", ".exit", "quit", "exit", "\\q"):
                return
            if text.startswith("."):
                self._command(text)
            else:
                self._answer(text)

    def _command(self, text: str) -> None:
        name, _, value = text.rstrip(";").partition(" ")
        value = value.strip().lower()
        if name == ".format" and value in _SHOWN_FORMATS:
            self._format = value
        elif name == ".expanded" and value in ("on", "off", "auto"):
            self._expanded = {"on": True, "off": False, "auto": None}[value]
        elif name == ".format":
            click.echo(f".format is one of {', '.join(_SHOWN_FORMATS)}", err=True)
        else:
            click.echo(_HELP.format(formats=", ".join(_SHOWN_FORMATS)), err=True, nl=False)

    def _answer(self, text: str) -> None:
        for statement in split_statements(text):
            started = time.monotonic()
            try:
                with waiting("the query has been running for"):
                    result = self._pipeline.sql(statement)
                out = sys.stdout.buffer
                width = terminal_width(out)
                write_rows(
                    result,
                    self._format,
                    out,
                    width=width,
                    max_rows=self._max_rows,
                    color=width is not None and uses_color(),
                    expanded=self._expanded,
                )
            except QuestlogError as error:
                click.echo(f"{error}" + (f"\n  try: {error.hint}" if error.hint else ""), err=True)
                return
            except KeyboardInterrupt:
                click.echo("stopped", err=True)
                return
            click.echo(f"{(time.monotonic() - started) * 1000:.0f} ms\n", err=True)


def _history(data: Path) -> History:
    """Return the project's history, readable only by its owner; none is kept in a read-only folder."""
    path = data / "sql_history"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _keys() -> KeyBindings:
    """Return key bindings: Enter runs a complete statement, and otherwise starts a new line."""
    keys = KeyBindings()

    @Condition
    def is_whole() -> bool:
        from prompt_toolkit.application import get_app

        text = get_app().current_buffer.text.strip()
        return not text or text.startswith((".", "\\")) or text.lower() in ("quit", "exit") or is_complete(text)

    @keys.add("enter", filter=is_whole & has_focus("DEFAULT_BUFFER"))
    def run(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys
