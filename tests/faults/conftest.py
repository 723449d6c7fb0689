"""Fixtures of the fault tests."""

from collections.abc import Iterator

import pytest

from support.game_processes import ForkServer


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Return one process that has imported everything and forks the servers and landers."""
    fork_server = ForkServer()
    yield fork_server
    fork_server.close()
