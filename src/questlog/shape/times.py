"""When an event happened, by our clock: the sender's may be wrong, but it measures how long ago."""

from __future__ import annotations

LONGEST_WAIT_MICROS = 30 * 86_400 * 1_000_000
"""How long an event may have waited at its sender and still be corrected; beyond it the clock was set meanwhile."""


def event_time(device: int | None, sent: int | None, received: int) -> int:
    """Return when an event happened; all times are microseconds since 1970.

    Without the sender's time it is the time of receipt. If the sender told when it sent the request, the time
    between is taken from its clock and counted back from ours. A time between that cannot be (it was sent before
    it happened, or a month after) corrects nothing.
    """
    if device is None:
        return received
    if sent is None or not 0 <= sent - device <= LONGEST_WAIT_MICROS:
        return device
    return received - (sent - device)
