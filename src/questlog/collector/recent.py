"""Recently seen client ids, so that a retry gets a `duplicate` receipt at once.

Landing decides for good, from the log and for as long as the plan requires. This memory only reports them earlier.
"""

from __future__ import annotations

from collections.abc import Iterable

KEPT = 100_000


class RecentIds:
    """The ids of the last `KEPT` to `2 * KEPT` durable events."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._new: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def add(self, ids: Iterable[str], received_ms: int) -> None:
        """Remember ids of events that are in the log."""
        if len(self._new) >= self._kept:
            self._old, self._new = self._new, {}
        self._new |= dict.fromkeys(ids, received_ms)

    def contains(self, event_id: str, received_ms: int, window_ms: int) -> bool:
        """Return whether an event with that id was received within the window."""
        earlier_ms = self._new.get(event_id)
        if earlier_ms is None:
            earlier_ms = self._old.get(event_id)
        return earlier_ms is not None and abs(received_ms - earlier_ms) <= window_ms
