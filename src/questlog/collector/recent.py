"""The ids that clients chose lately: so that who sends an event again hears at once that it is a duplicate.

Landing decides, by the log and for as long as the plan says; this memory only says early what it knows.
"""

from __future__ import annotations

from collections.abc import Iterable

KEPT = 100_000


class RecentIds:
    """Ids of events that are durable, the last `KEPT` to two times as many."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._new: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def add(self, ids: Iterable[str], received_ms: int) -> None:
        """Remember ids whose events are in the log."""
        if len(self._new) >= self._kept:
            self._old, self._new = self._new, {}
        self._new |= dict.fromkeys(ids, received_ms)

    def knows(self, event_id: str, received_ms: int, window_ms: int) -> bool:
        """Return whether an event of that id came within the window."""
        at = self._new.get(event_id)
        if at is None:
            at = self._old.get(event_id)
        return at is not None and abs(received_ms - at) <= window_ms
