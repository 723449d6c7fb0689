"""What a player sent never controls a terminal: every command is run on a pty, over a table of hostile texts."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.messages import library_logger, start_logging
from questlog.printable import escape
from support.cli_project import Project

HOSTILE = {
    "sets the window title": "\x1b]0;PWNED\x07",
    "writes the clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "clears the screen": "\x1b[2J\x1b[H",
    "hides what follows": "\x1b[8m",
    "C1 control sequence": "\x9b31m",
    "C1 operating system command": "\x9d0;PWNED\x9c",
    "device control string": "\x1bP1$r0m\x1b\\",
    "overwrites the line": "good\rbad",
    "erases letters": "good\x08\x08\x08\x08bad",
    "DEL and NEL": "a\x7fb\x85c",
    "reverses text": "\u202egpj.exe\u202c",
    "isolates": "\u2066a\u2067b\u2068c\u2069",
    "direction marks": "\u200e\u200f\u061c",
}
ALL = "".join(HOSTILE.values())
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\udc80-\udcff]")
OURS = re.compile("\x1b\\[(?:0|1|2|31|32|33)m|\r(?=the query has been running|\x1b\\[K)|\x1b\\[K")
"""The colours and the progress line that questlog itself prints."""

PLAN = '[events.step]\ndescription = "A step."\n[events.step.fields]\nname = "string"\nlength = "int"\n'
FILE = "e\x1b]0;PWNED\x07\u202e\x7f.jsonl"

COMMANDS: dict[str, tuple[str, ...]] = {
    "table": ("sql", "select * from step"),
    "expanded table": ("sql", "-x", "select name from step"),
    "csv": ("sql", "--format", "csv", "select name from step"),
    "json": ("sql", "--json", "select name from step"),
    "ndjson": ("sql", "--format", "ndjson", "select name from step"),
    "column name": ("sql", f'select 1 as "{ALL}"'),
    "error of the engine": ("sql", "select string_agg(name, '')::int from step"),
    "error that quotes the statement": ("sql", f"select '{ALL}'::int"),
    "unknown table": ("sql", f'select * from "{ALL}"'),
    "syntax error": ("sql", f"selec {ALL}"),
    "quarantine table": ("sql", "--max-rows", "0", "select * from quarantine"),
    "quarantine csv": ("sql", "--format", "csv", "select * from quarantine"),
    "check": ("sql", "--check", f"select '{ALL}'::int, \"{ALL}\" from step"),
    "check json": ("sql", "--check", "--json", f"select '{ALL}'::int from step"),
    "tail": ("tail", "-n", "100", "--no-follow"),
    "tail json": ("tail", "-n", "100", "--no-follow", "--json"),
    "plan suggest": ("plan", "suggest"),
    "plan check": ("plan", "check", "bad.toml"),
    "plan check json": ("plan", "check", "--json", "bad.toml"),
    "plan show": ("plan", "show"),
    "status": ("status",),
    "status json": ("status", "--json"),
    "doctor": ("doctor",),
    "doctor json": ("doctor", "--json"),
    "import": ("import", "--again", FILE),
    "import json": ("import", "--again", "--json", FILE),
    "import of a missing file": ("import", f"missing{FILE}"),
    "land": ("land",),
    "backfill": ("backfill",),
    "key create": ("key", "create", ALL),
    "key list": ("key", "list"),
    "export": ("export", f"out{FILE}"),
    "usage error": (ALL,),
    "missing folder": ("-C", f"nowhere{ALL}", "status"),
}


def on_a_terminal(folder: Path, arguments: list[str], **environment: str) -> str:
    """Run a process on a pty and return what its terminal received; bytes that are not UTF-8 become surrogates."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=other, stdout=other, stderr=other, start_new_session=True, cwd=folder,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(other)
    received = b""
    try:
        while select.select([main], [], [], 120)[0]:
            try:
                received += os.read(main, 65536)
            except OSError:  # the process has closed the terminal
                break
    finally:
        process.kill()
        process.wait()
        os.close(main)
    return received.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Return a project whose players sent every hostile text: as value, type, field name and broken JSON."""
    project = Project(tmp_path_factory.mktemp("attacked"))
    (project.folder / "plan.toml").write_text(PLAN)
    (project.folder / "bad.toml").write_text(f"[events.step.fields]\n{json.dumps(ALL)} = {json.dumps(ALL)}\n")
    for text in HOSTILE.values():
        project.send(
            json.dumps({"event_type": "step", "name": text}, ensure_ascii=False),
            json.dumps({"event_type": "step", "name": "x", "length": text}),
            json.dumps({"event_type": text}),
            json.dumps({"event_type": "step", text: text}),
            f'{{"event_type": "{text}',
        )
    (project.folder / FILE).write_text('{"event_type": "step", "name": "\\u009b"}\n{"event_type\x1b\x9b\n')
    yield project


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_sends_a_control_character_to_a_terminal(attacked: Project, command: tuple[str, ...]) -> None:
    shown = on_a_terminal(attacked.folder, ["-m", "questlog", *command], TERM="dumb")
    assert shown.strip()
    assert UNSAFE.findall(shown) == [], repr(shown)


@pytest.mark.parametrize("command", ["table", "tail", "doctor", "error of the engine"])
def test_colours_pass_and_the_text_inside_them_is_escaped(attacked: Project, command: str) -> None:
    shown = on_a_terminal(attacked.folder, ["-m", "questlog", *COMMANDS[command]])
    assert bool(OURS.search(shown)) == (command != "error of the engine")
    assert UNSAFE.findall(OURS.sub("", shown)) == [], repr(shown)


def test_json_on_a_terminal_has_the_same_values(attacked: Project) -> None:
    shown = on_a_terminal(attacked.folder, ["-m", "questlog", *COMMANDS["json"]], TERM="dumb")
    names = {row["name"] for row in json.loads(shown[shown.index("[{") :])}
    assert set(HOSTILE.values()) <= names


def test_a_pipe_gets_the_bytes_as_they_were_sent(attacked: Project) -> None:
    def output(*arguments: str) -> bytes:
        argv = [sys.executable, "-m", "questlog", *arguments]
        return subprocess.run(argv, cwd=attacked.folder, capture_output=True, check=True).stdout

    query = "select name from step where name is not null and name not in ('x', chr(155)) order by name"
    sent = sorted(HOSTILE.values(), key=str.encode)
    cells = [f'"{text}"' if "\r" in text else text for text in sent]
    assert output("sql", "--format", "csv", query) == "".join(f"{cell}\r\n" for cell in ["name", *cells]).encode()
    documents = output("sql", "--format", "ndjson", query).decode()
    assert [json.loads(line)["name"] for line in documents.strip().split("\n")] == sent
    for text in (documents, output("tail", "-n", "100", "--no-follow", "--json").decode()):
        assert "\x9b31m" in text and "\u202egpj" in text and "\x7f" in text


def test_standard_error_is_escaped_in_a_pipe_too(attacked: Project) -> None:
    done = attacked.run(*COMMANDS["error of the engine"])
    assert done.returncode != 0 and UNSAFE.findall(done.stderr) == [] and "\\u001b]0;PWNED" in done.stderr


def test_a_traceback_is_escaped(tmp_path: Path) -> None:
    program = f"from questlog.printable import protect_output\nprotect_output()\nraise ValueError({ALL!r})"
    shown = on_a_terminal(tmp_path, ["-c", program])
    assert "ValueError" in shown and UNSAFE.findall(shown) == []


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_log_lines_are_escaped(text: str, as_json: bool) -> None:
    before = logging.getLogger().handlers[:]
    try:
        start_logging(as_json)
        record = logging.LogRecord("questlog", logging.ERROR, __file__, 1, text, None, None)
        line = logging.getLogger().handlers[0].format(record)
    finally:
        logging.getLogger().handlers[:] = before
    assert UNSAFE.findall(line) == []
    assert not as_json or json.loads(line)["message"] == text


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_log_lines_in_the_process_of_a_game_are_escaped(text: str, caplog: pytest.LogCaptureFixture) -> None:
    logger = library_logger("questlog.test")
    logger.warning("field=%s lost=%d: %s", f"{text}\nforged", 3, ValueError(text))
    assert UNSAFE.findall(caplog.text) == [] and "\nforged" not in caplog.text and "lost=3" in caplog.text


def test_bytes_of_a_file_name_that_are_no_utf_8_are_escaped() -> None:
    assert escape(os.fsdecode(b"a\x9b31m")) == "a\\udc9b31m"
    assert escape("a\tb\r\nc\nd") == "a\tb\nc\nd"


def test_safe_csv_has_no_formulas_and_the_same_numbers(attacked: Project) -> None:
    query = "select * from (values ('=cmd|x'), ('+1+1'), ('-1+1'), ('@SUM(1)'), ('\t=1'), ('-1.5e3'), ('a=b'), (null))"
    done = attacked.run("sql", "--safe", "--format", "csv", f'{query} as t("=h")')
    assert done.stdout.split("\n")[:-1] == [
        "'=h", "'=cmd|x", "'+1+1", "'-1+1", "'@SUM(1)", "'\t=1", "-1.5e3", "a=b", "",
    ]  # fmt: skip
    assert attacked.run("sql", "--format", "csv", "select '=cmd' as a").stdout == "a\n=cmd\n"
    assert "--safe is for CSV, not for table" in attacked.run("sql", "--safe", "select 1").stderr
