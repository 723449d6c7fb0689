"""Fixtures of the fault tests."""

from collections.abc import Iterator

import pytest
from harness import Nursery


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """One process that imported everything, whose children are the servers and landers."""
    nursery = Nursery()
    yield nursery
    nursery.close()
