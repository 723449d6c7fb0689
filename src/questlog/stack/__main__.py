"""The supervisor in its own process, which `questlog stack up --detach` starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from questlog.errors import QuestlogError
from questlog.printable import protect_output
from questlog.stack import Stack
from questlog.stack.processes import Identity, born
from questlog.stack.supervisor import StackSupervisor


def main() -> int:
    """Run the stack in the given folder until SIGTERM, or until the process of `--while` exits."""
    protect_output()
    parser = argparse.ArgumentParser(prog="questlog.stack")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ports", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--while", dest="while_pid", type=int, default=0)
    options = parser.parse_args()
    stack = Stack(options.folder, ports=options.ports, only=[name for name in options.only.split(",") if name])
    master = Identity(options.while_pid, born(options.while_pid)) if options.while_pid else None
    try:
        supervisor = StackSupervisor(stack.settle(), stack.servers, lambda line: print(line, flush=True))
        supervisor.run(wanted=lambda: master is None or master.alive())
    except QuestlogError as error:
        print(f"{error}" + (f"\n  try: {error.hint}" if error.hint else ""), flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
