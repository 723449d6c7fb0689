"""All tests of the cluster on one stack of servers: python tests/cluster [pytest's options]; `make test-cluster` does.

One process has one Spark: what lands with it, and what asks questions with it, get a process each.
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
    for name in ("spark_lander", "spark_contract", "fence", "backfill", "parity", "promote")
]
FAULTS = str(HERE / "faults")
GROUPS = (
    [str(HERE), f"--ignore={FAULTS}", *(f"--ignore={file}" for file in LANDING)],
    LANDING,
    ["-s", FAULTS],
)


def main(options: list[str]) -> int:
    """Run every group, also after one failed; return the worst exit code."""
    with tempfile.TemporaryDirectory(prefix="questlog-") as folder, Stack(folder, ports="free") as stack:
        environment = {
            **os.environ, "QUESTLOG_CLUSTER": "1", "QUESTLOG_STACK": str(stack.folder), "QUESTLOG_STACK_MAY_DIE": "1",
        }  # fmt: skip
        return max(
            subprocess.run([sys.executable, "-m", "pytest", *group, *options], env=environment).returncode
            for group in GROUPS
        )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
