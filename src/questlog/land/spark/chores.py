"""What runs beside the stream, in a thread of its own: upkeep on its schedule, the query engine's view of tables."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from questlog.land import StopSignal
from questlog.land.spark.upkeep import SparkUpkeep

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOOK_SECONDS = 2.0
RETRY_SECONDS = 30.0
JOIN_SECONDS = 15.0
"""How long an end waits for a chore: one that is cut off is done again."""
TAG = "questlog-upkeep"
"""By this Spark knows upkeep's jobs: they share its cores with the stream, and end when the lander does."""

logger = logging.getLogger("questlog.land")


class Chores:
    """Work that no event waits for: trouble with it is said once, put off, and never stops the stream."""

    def __init__(self, spark: SparkSession, upkeep: SparkUpkeep, announce: Callable[[], None]) -> None:
        self._spark, self._upkeep, self._announce = spark, upkeep, announce
        self._to_announce, self._said = True, ""
        self._one = threading.Lock()

    def tables_changed(self) -> None:
        """Have the query engine told that tables were made or have grown."""
        self._to_announce = True

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Do the chores for as long as the block runs."""
        stop = threading.Event()
        thread = self._start(stop, once=False)
        try:
            yield
        finally:
            stop.set()
            deadline = time.monotonic() + JOIN_SECONDS
            while thread.is_alive() and time.monotonic() < deadline:
                with contextlib.suppress(Exception):  # Spark may be gone
                    self._spark.sparkContext.cancelJobsWithTag(TAG)
                thread.join(0.5)

    def finish(self, stop: StopSignal | None = None) -> None:
        """Do what is due, all of it, for a lander that runs now and then; a stop cuts it short."""
        done = threading.Event()
        thread = self._start(done, once=True)
        while thread.is_alive():
            thread.join(0.2)
            if stop is not None and stop.is_set():
                done.set()
                with contextlib.suppress(Exception):
                    self._spark.sparkContext.cancelJobsWithTag(TAG)

    def _start(self, stop: threading.Event, *, once: bool) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(stop, once), name="chores", daemon=True)
        thread.start()
        return thread

    def _run(self, stop: threading.Event, once: bool) -> None:
        with contextlib.suppress(Exception):  # the thread's own, in Spark too
            context = self._spark.sparkContext
            context.addJobTag(TAG)
            context.setLocalProperty("spark.scheduler.pool", TAG)
        while not stop.is_set():
            with self._one:  # a thread that was cut off may take a moment to notice
                if stop.is_set():
                    return
                waits, more = self._tell(), self._upkeep.step(stop)
            if once and not more:
                return
            stop.wait(0 if more else RETRY_SECONDS if waits else LOOK_SECONDS)

    def _tell(self) -> bool:
        """Tell the query engine of the tables if there is news; return whether it must be tried again."""
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
