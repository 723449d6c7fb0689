"""Whether there is a terminal, and what it can show."""

from __future__ import annotations

import os
import shutil
from typing import BinaryIO


def terminal_width(out: BinaryIO) -> int | None:
    """Return the width of the terminal that *out* writes to; None if it is not a terminal."""
    return shutil.get_terminal_size().columns if out.isatty() else None


def uses_color() -> bool:
    """Return whether the user wants colors (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
