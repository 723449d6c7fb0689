"""What runs beside the stream, in a thread of its own: the query engine is told of the tables as they are now."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from questlog.land import StopSignal

LOOK_SECONDS = 2.0
RETRY_SECONDS = 30.0
JOIN_SECONDS = 10.0
"""How long an end waits for a chore: one that is cut off is done again."""

logger = logging.getLogger("questlog.land")


class Chores:
    """Work that no event waits for: trouble with it is said once, put off, and never stops the stream."""

    def __init__(self, announce: Callable[[], None]) -> None:
        self._announce = announce
        self._to_announce, self._said = True, ""

    def tables_changed(self) -> None:
        """Have the query engine told that tables were made or have grown."""
        self._to_announce = True

    def step(self) -> bool:
        """Do what is due; return whether something is left for a later try."""
        if self._to_announce:
            self._to_announce = False  # before the act: what changes during it is told again
            try:
                self._announce()
                self._said = ""
            except Exception as error:
                self._to_announce = True
                self._say(error)
        return self._to_announce

    def _say(self, error: Exception) -> None:
        said = str(error).splitlines()[0] if str(error) else repr(error)
        if said != self._said:
            self._said = said
            logger.warning("stage=land the view `events` waits for the query engine: %s", said)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Do the chores for as long as the block runs."""
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,), name="chores", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(JOIN_SECONDS)

    def _run(self, stop: StopSignal) -> None:
        while not stop.is_set():
            stop.wait(RETRY_SECONDS if self.step() else LOOK_SECONDS)
