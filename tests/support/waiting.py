"""Wait for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    condition: Callable[[], T],
    what: str = "",
    seconds: float = 60.0,
    *,
    every: float = 0.01,
    alive: Callable[[], object] = lambda: True,
) -> T:
    """Return the first true value of *condition*, checked every *every* seconds; fail after *seconds*.

    Fail at once when the process that should make it true is no longer *alive*.

    A condition that raises OSError is not true yet: the server it asks may not be listening.
    The deadline is generous, because it costs nothing where the condition holds and the machine may be busy.
    """
    deadline = time.monotonic() + seconds
    while True:
        reason = ""
        try:
            if value := condition():
                return value
        except OSError as error:
            reason = f" ({error})"
        assert alive(), f"the process has ended before: {what or condition}"
        assert time.monotonic() < deadline, f"not true within {seconds:g} s: {what or condition}{reason}"
        time.sleep(every)  # the one place where tests wait
