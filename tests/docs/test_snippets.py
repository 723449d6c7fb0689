"""Every snippet of the README and the docs runs, page by page, each page in its own folder.

```sh blocks run in bash with `questlog` on the PATH, and ```python blocks in a fresh interpreter.
A ```toml or ```python block after a line that ends with a file name in backquotes and a colon is written to that file.
A ```text block must equal the output of the snippet before it. `<!-- not run: why -->` skips a block.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.paths import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n+```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.S | re.M)
_NAMED = re.compile(r"`(?P<name>[\w./-]+\.(?:toml|py|json|jsonl|sql))`[^`]*:$")


@dataclass(frozen=True)
class Snippet:
    kind: str
    body: str
    file: str = ""
    skipped: bool = False


def snippets(text: str) -> list[Snippet]:
    blocks = []
    for match in _BLOCK.finditer(text):
        before = match["before"].strip()
        named = _NAMED.search(before)
        blocks.append(
            Snippet(match["kind"], match["body"], named["name"] if named else "", before.startswith("<!-- not run:"))
        )
    return blocks


def run(snippet: Snippet, folder: Path) -> str:
    """Run one snippet to completion; its background processes end with the page."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QUESTLOG_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["NO_COLOR"] = "1"
    command = ["bash", "-euo", "pipefail", "-c", snippet.body]
    if snippet.kind == "python":
        command = [sys.executable, "-c", snippet.body]
    with (folder / ".output").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        GROUPS.append(process.pid)
        code = process.wait(400)
        output.seek(0)
        printed = output.read()
    assert code == 0, f"{snippet.body}\n-> exit {code}\n{printed}"
    return printed


GROUPS: list[int] = []


@pytest.fixture(autouse=True)
def end_background() -> object:
    yield
    while GROUPS:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(GROUPS.pop(), signal.SIGKILL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_snippet_of_a_page_runs_as_documented(page: Path, tmp_path: Path) -> None:
    printed = ""
    for snippet in snippets(page.read_text("utf-8")):
        if snippet.skipped:
            continue
        if snippet.file:
            (tmp_path / snippet.file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / snippet.file).write_text(snippet.body)
        elif snippet.kind in ("sh", "python"):
            printed = run(snippet, tmp_path)
        elif snippet.kind == "text":
            assert snippet.body.strip() in printed


def test_a_failing_snippet_fails_its_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit 3"):
        run(Snippet("sh", "exit 3"), tmp_path)
