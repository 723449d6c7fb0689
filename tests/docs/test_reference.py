"""The generated reference pages match the code."""

import subprocess
import sys

from support.paths import ROOT


def test_the_reference_pages_are_up_to_date() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "up to date"), ran.stdout + ran.stderr
