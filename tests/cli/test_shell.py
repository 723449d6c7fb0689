"""The SQL shell on a real terminal: a process on a pty, with keys typed as a user would."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from questlog.accept import accept
from questlog.pipeline import open_pipeline
from support.waiting import until

PLAN = """
[events.purchase]
description = "A player bought something."

[events.purchase.fields]
item = { type = "string", description = "Which item." }
price = "decimal(12,2)"
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>()][B0]?|\r")


class Terminal:
    """A shell process with its own terminal; its output is kept without escape sequences."""

    def __init__(self, folder: Path) -> None:
        self.main, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "questlog", "-C", str(folder), "sql"],
            stdin=other, stdout=other, stderr=other, start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PROMPT_TOOLKIT_NO_CPR": "1"},
        )  # fmt: skip
        os.close(other)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self.main, keys.encode())

    def wait_until_busy(self, statement: str) -> None:
        """Type a statement that takes hours; return once it has used a second of processor time."""
        process = psutil.Process(self.process.pid)
        before = sum(process.cpu_times()[:2])
        self.type(statement)
        until(lambda: sum(process.cpu_times()[:2]) > before + 1, "the statement runs")

    def wait_for(self, text: str, seconds: float = 60) -> str:
        """Consume and return the output up to and including *text*."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"never showed {text!r} but:\n{self.shown}"
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    self.shown += _ESCAPES.sub("", os.read(self.main, 65536).decode("utf-8", "replace"))
                except OSError:
                    assert text in self.shown, f"left without {text!r}:\n{self.shown}"
        end = self.shown.index(text) + len(text)
        before, self.shown = self.shown[:end], self.shown[end:]
        return before


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path)
    events = [
        b'{"event_type": "purchase", "item": "sword", "price": 9.99}',
        b'{"event_type": "purchase", "item": "bow"}',
    ]
    pipeline.log.append(accept(events, pipeline.plan, received_ms=time.time_ns() // 1_000_000).records)
    shell = Terminal(tmp_path)
    shell.wait_for("questlog>")
    yield shell
    shell.process.kill()
    shell.process.wait()
    os.close(shell.main)


def test_a_statement_may_span_several_lines(terminal: Terminal) -> None:
    terminal.type("select count(*) as bought\r")
    terminal.wait_for("...>")
    terminal.type("from purchase;\r")
    assert re.search(r"bought\n-+\n +2\n\(1 row\)", terminal.wait_for("(1 row)"))


def test_tab_completes_a_table_and_its_column(terminal: Terminal) -> None:
    terminal.type("select max(item) as most from purch")
    terminal.wait_for("from purch")
    terminal.type("\t")
    terminal.wait_for("ase")
    terminal.type(";\r")
    assert "sword" in terminal.wait_for("(1 row)")
    terminal.wait_for("questlog>")
    terminal.type("select pri\t")
    terminal.wait_for("price")


def test_the_shell_survives_an_error(terminal: Terminal) -> None:
    terminal.type("select * from purchas;\r")
    terminal.wait_for("did you mean purchase?")
    terminal.type("drop table purchase;\r")
    terminal.wait_for("refused")
    terminal.type("select 40 + 2 as answer;\r")
    assert "42" in terminal.wait_for("(1 row)")


def test_ctrl_c_discards_a_line_and_stops_a_statement(terminal: Terminal) -> None:
    terminal.type("select nonsense\x03")
    terminal.wait_for("questlog>")
    terminal.wait_until_busy("select sum(hash(range)) from range(1000000000000);\r")
    terminal.wait_for("s; Ctrl-C stops it")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.wait_for("stopped")
    terminal.type("select 40 + 2 as answer;\r")
    assert "42" in terminal.wait_for("(1 row)")


def test_dot_commands(terminal: Terminal) -> None:
    terminal.type(".help\r")
    terminal.wait_for("Ctrl-D does too")
    terminal.type(".format csv\rselect item from purchase order by 1;\r")
    terminal.wait_for("item\nbow\nsword\n")
    terminal.type(".expanded sideways\r")
    terminal.wait_for(".expanded on|off|auto")


@pytest.mark.parametrize("keys", ["\x04", ".quit\r", "exit\r", "quit;\r"])
def test_ways_to_leave_the_shell(terminal: Terminal, keys: str) -> None:
    terminal.type(keys)
    assert terminal.process.wait(60) == 0


def test_the_history_survives_the_shell(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("select 7 * 6 as answer;\r")
    terminal.wait_for("(1 row)")
    terminal.wait_for("questlog>")
    terminal.type("\x04")
    terminal.process.wait(60)
    again = Terminal(tmp_path)
    try:
        again.wait_for("questlog>")
        again.type("\x1b[A")
        again.wait_for("7 * 6 as answer;")
        again.type("\r")
        assert "42" in again.wait_for("(1 row)")
    finally:
        again.process.kill()
        again.process.wait()
        os.close(again.main)
    history = tmp_path / ".questlog" / "sql_history"
    assert history.stat().st_mode & 0o077 == 0
