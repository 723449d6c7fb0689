"""The tests of the cluster on one stack of servers: `python tests/cluster [--full] [pytest's options]`.

`make test-cluster` runs them. `make test-cluster-full` adds those marked `full`: every variant of security, catalog
and warehouse, and the faults that take long.

A process has one Spark, so the tests that land and the tests that query run in two processes, side by side. The tests
that kill servers of the stack run after both.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from questlog.stack import Stack

HERE = Path(__file__).parent
LANDING = [
    str(HERE / f"test_{name}.py")
    for name in ("spark_lander", "spark_contract", "fence", "maintenance", "spark_backfill", "parity", "promotion")
]
KILLING = [str(HERE / "test_stack.py"), str(HERE / "test_status.py"), str(HERE / "faults")]
QUERYING = [str(HERE), *(f"--ignore={path}" for path in (*LANDING, *KILLING))]


def main(words: list[str]) -> int:
    """Run every group, even after one has failed; return an exit code that is not 0 unless all of theirs were."""
    options = [word for word in words if word != "--full"]
    options += [] if "--full" in words else ["-m", "not full"]
    with tempfile.TemporaryDirectory(prefix="questlog-") as folder, Stack(folder, ports="free") as stack:
        environment = {
            **os.environ, "QUESTLOG_CLUSTER": "1", "QUESTLOG_STACK": str(stack.folder), "QUESTLOG_STACK_MAY_DIE": "1",
        }  # fmt: skip
        pytest = [sys.executable, "-m", "pytest", *options]
        output = Path(folder, "landing.txt")
        with (
            output.open("wb") as out,
            subprocess.Popen([*pytest, *LANDING], env=environment, stdout=out, stderr=subprocess.STDOUT) as landing,
        ):
            try:
                codes = [subprocess.run([*pytest, *QUERYING], env=environment).returncode, landing.wait()]
            except BaseException:
                landing.send_signal(signal.SIGINT)  # pytest ends what its fixtures started
                raise
        print(output.read_text(errors="replace"), flush=True)
        codes.append(subprocess.run([*pytest, "-s", *KILLING], env=environment).returncode)
        return max(map(abs, codes))  # a process that died of a signal has a negative code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
