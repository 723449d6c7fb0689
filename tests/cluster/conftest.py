"""One stack of real servers for all of these tests; `make test-cluster` brings and starts it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog.stack import Stack

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests to `make test-cluster`."""
    if not os.environ.get("QUESTLOG_CLUSTER"):
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs the servers; run make test-cluster"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka, HDFS, Metastore and Presto, all healthy, on free ports; gone with this process, however it ends."""
    with Stack(tmp_path_factory.mktemp("stack"), ports="free") as running:
        yield running
