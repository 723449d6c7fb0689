"""A stop signal takes effect at any moment, even while a thread is waiting for it."""

import signal
import subprocess
import sys

import pytest

WAITING_FOR_WHAT_THE_SIGNAL_SETS = """
import random, signal, threading
from questlog.stopping import on_signal

for turn in range(300):
    stop = threading.Event()
    on_signal(stop.set, signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.0004))
    while not stop.wait(1e-9):
        pass
print("heard")
"""

ASKED_ONCE = """
import os, signal
from questlog.stopping import stopping

with stopping() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    print(stop.wait(10), flush=True)
    os.kill(os.getpid(), signal.{second})
    print("never", flush=True)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180)


def test_a_signal_that_interrupts_a_wait_ends_it() -> None:
    """`Event.set` in a signal handler would deadlock on the lock of the wait that it interrupts."""
    assert run(WAITING_FOR_WHAT_THE_SIGNAL_SETS).stdout == "heard\n"


@pytest.mark.parametrize(("second", "code"), [("SIGINT", 1), ("SIGTERM", -signal.SIGTERM)])
def test_a_second_signal_ends_the_process_immediately(second: str, code: int) -> None:
    ran = run(ASKED_ONCE.format(second=second))
    assert ran.stdout == "True\n"
    assert ran.returncode in (code, -getattr(signal, second))


def test_the_previous_signal_handlers_are_restored() -> None:
    program = (
        "import signal; from questlog.stopping import stopping\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "with stopping(): pass\n"
        "print(signal.getsignal(signal.SIGINT) is before)"
    )
    assert run(program).stdout == "True\n"
