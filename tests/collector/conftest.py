"""Fixtures of the collector's tests."""

from collections.abc import Iterator

import pytest

from support.collector_process import Collector


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    """One collector for the tests of a file: each test sends its own events."""
    with Collector(tmp_path_factory.mktemp("swords")) as running:
        yield running
