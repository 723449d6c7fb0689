"""Rate limits: per write key, one clock in memory that all workers share."""

from __future__ import annotations

import mmap
import time

BURST_SECONDS = 1.0
"""The burst a key may send, in seconds of its rate. A batch that starts within it is accepted whole."""
_KEYS = 4096


class Rates:
    """Per key, the time until which its rate is used up. Made before the workers are forked.

    Workers do not lock: if two count at the same microsecond, one count is lost, and the limit still holds closely.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * _KEYS)
        self._paid = memoryview(self._memory).cast("d")

    def wait_seconds(self, number: int, rate: float) -> float:
        """Return how long a key must wait before it may send again; 0 if it may send now."""
        if not rate:
            return 0.0
        return max(0.0, self._paid[number % _KEYS] - time.monotonic() - BURST_SECONDS)

    def count(self, number: int, rate: float, events: int) -> None:
        """Count events sent with a key."""
        if rate:
            paid = max(self._paid[number % _KEYS], time.monotonic())
            self._paid[number % _KEYS] = paid + events / rate
