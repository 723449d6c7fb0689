"""How many events a second a key may send: one clock per key in memory that all workers share."""

from __future__ import annotations

import mmap
import time

BURST_SECONDS = 1.0
"""What a key may send at once, in seconds of its rate; a batch that begins in time is taken whole."""
_KEYS = 4096


class Rates:
    """Per key the moment its events are paid for. Made before workers are forked.

    Workers do not lock: two that count in the same microsecond count one of them, and the limit stays one.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * _KEYS)
        self._paid = memoryview(self._memory).cast("d")

    def wait_seconds(self, number: int, rate: float) -> float:
        """Return how long a key has to wait before it may send again, 0 if it may now."""
        if not rate:
            return 0.0
        return max(0.0, self._paid[number % _KEYS] - time.monotonic() - BURST_SECONDS)

    def count(self, number: int, rate: float, events: int) -> None:
        """Count events that a key has sent."""
        if rate:
            paid = max(self._paid[number % _KEYS], time.monotonic())
            self._paid[number % _KEYS] = paid + events / rate
