"""Which servers the tests run on, and how they start Spark."""

import os
from typing import Any

MAY_DIE = "QUESTLOG_STACK" not in os.environ or "QUESTLOG_STACK_MAY_DIE" in os.environ
"""Whether the servers are the tests' own, to kill and to freeze."""
QUICK = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
SPARK = {"spark.driver.memory": "1g", "spark.driver.extraJavaOptions": QUICK}
"""A small driver that starts fast: it does not live long enough to gain from the second compiler."""
SPARK_LINES = "\n".join(f'"{key}" = "{text}"' for key, text in SPARK.items())
"""The same, for questlog.toml."""


class Kept:
    """A session whose `stop` does nothing: all tests share it."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def stop(self) -> None:
        pass
