"""The reference pages say what the code says."""

import subprocess
import sys

from support.paths import ROOT


def test_the_reference_is_what_the_code_says() -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "up to date"), ran.stdout + ran.stderr
