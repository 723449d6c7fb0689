"""Whether there is a terminal, and what it can show."""

from __future__ import annotations

import os
import shutil
import sys
from typing import BinaryIO

import click

from questlog.printable import drawing


def terminal_width(out: BinaryIO) -> int | None:
    """Return the width of the terminal that *out* writes to; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if out.isatty() else None


def uses_color() -> bool:
    """Return whether the user wants colors (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def draw(text: str, *, newline: bool = True, error: bool = False) -> None:
    """Print *text* with its colours and moves of the cursor. The caller has escaped everything else in it."""
    click.echo(text, drawing(sys.stderr if error else sys.stdout), nl=newline)


def print_data(text: str) -> None:
    """Print a line for programs: escaped on a terminal, unchanged in a file or pipe."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()
