"""The collector's group commit: requests that arrive in one turn of the event loop share one append."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from questlog.errors import LogUnavailable
from questlog.log import Log
from questlog.log.group import Waiter
from questlog.log.worker import LoopCommit

MAX_GROUP_BYTES = 8 << 20
MAX_WAITING_BYTES = 64 << 20

logger = logging.getLogger("questlog.collector")
Done = Callable[[LogUnavailable | None], None]


class Committer:
    """Appends records in a dedicated thread. All methods belong to the event loop's thread."""

    def __init__(self, log: Log, observe: Callable[[float], None] = lambda _: None) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._commits = LoopCommit(
            self._append,
            name="questlog-commit",
            max_size=MAX_GROUP_BYTES,
            max_waiting_size=MAX_WAITING_BYTES,
            observe=observe,
        )

    def submit(self, records: Sequence[bytes], done: Done) -> None:
        """Call *done* once *records* are durable, or with the reason why none of them is acknowledged."""
        try:
            self._commits.submit(self._loop, records, sum(map(len, records)), done)
        except LogUnavailable as error:
            done(error)

    async def close(self) -> None:
        """Return once everything submitted is answered."""
        while self._commits.waiting:
            await asyncio.sleep(0.001)
        self._commits.close()

    def _append(self, group: Sequence[Waiter]) -> None:
        try:
            self._log.append([record for waiter in group for record in waiter.work])
        except LogUnavailable:
            raise
        except Exception as error:
            logger.exception("stage=append the log failed")
            raise LogUnavailable(
                f"the log failed: {type(error).__name__}", hint="questlog doctor", retry_after=5
            ) from error
