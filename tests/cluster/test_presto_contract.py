"""Run the contract of query engines, tests/contracts/test_query.py, on Presto and the cluster's tables."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from contracts import test_query as contract
from contracts.test_query import *  # noqa: F403
from questlog.query.presto import PrestoEngine, PrestoServer
from questlog.stack import Stack
from support.cluster import shop_tables

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", params=["presto"])
def open_engine(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[contract.Open]:
    """The contract's events, in tables that Spark wrote."""
    folder, schema = tmp_path_factory.mktemp("game"), f"contract_{uuid.uuid4().hex[:8]}"
    game = contract.open_game(folder)
    shop_tables.copy_tables(game, shop_tables.open_spark(stack), schema, folder)
    server = PrestoServer(stack.addresses.presto, "iceberg", schema)
    yield lambda seconds: PrestoEngine(server, lambda: game.plan, seconds=seconds)
    game.close()
    game.log.close()
