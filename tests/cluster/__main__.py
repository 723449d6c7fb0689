"""All tests of the cluster on one stack of servers: python tests/cluster [pytest's options]; `make test-cluster` does.

One process has one Spark: what lands with it, and what asks questions with it, get a process each, side by side. What
kills servers of the stack comes after them.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from questlog.stack import Stack

HERE = Path(__file__).parent
LANDING = [
    str(HERE / f"test_{name}.py")
    for name in ("spark_lander", "spark_contract", "fence", "upkeep", "spark_backfill", "parity", "promotion")
]
KILLING = [str(HERE / "test_stack.py"), str(HERE / "test_status.py"), str(HERE / "faults")]
OTHERS = [str(HERE), *(f"--ignore={path}" for path in (*LANDING, *KILLING))]


def main(options: list[str]) -> int:
    """Run every group, also after one failed; return an exit code that is not 0 if one of theirs was not."""
    with tempfile.TemporaryDirectory(prefix="questlog-") as folder, Stack(folder, ports="free") as stack:
        environment = {
            **os.environ, "QUESTLOG_CLUSTER": "1", "QUESTLOG_STACK": str(stack.folder), "QUESTLOG_STACK_MAY_DIE": "1",
        }  # fmt: skip
        pytest = [sys.executable, "-m", "pytest", *options]
        said = Path(folder, "landing.txt")
        with (
            said.open("wb") as out,
            subprocess.Popen([*pytest, *LANDING], env=environment, stdout=out, stderr=subprocess.STDOUT) as landing,
        ):
            codes = [subprocess.run([*pytest, *OTHERS], env=environment).returncode, landing.wait()]
        print(said.read_text(errors="replace"), flush=True)
        codes.append(subprocess.run([*pytest, "-s", *KILLING], env=environment).returncode)
        return max(map(abs, codes))  # one that died of a signal has a negative code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
