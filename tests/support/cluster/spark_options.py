"""What these tests have in common: whose servers they run on, and how Spark is started for them."""

import os
from typing import Any

MAY_DIE = "QUESTLOG_STACK" not in os.environ or "QUESTLOG_STACK_MAY_DIE" in os.environ
"""Whether they are the tests' own, to kill and to freeze."""
QUICK = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
SPARK = {"spark.driver.memory": "1g", "spark.driver.extraJavaOptions": QUICK}
"""A driver that is small, and soon there: it does not live long enough to gain from the better compiler."""
SPARK_LINES = "\n".join(f'"{key}" = "{text}"' for key, text in SPARK.items())
"""The same for questlog.toml."""


class Kept:
    """A session whose `stop` does nothing: all tests have one."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def stop(self) -> None:
        pass
