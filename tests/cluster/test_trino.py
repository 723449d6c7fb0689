"""Trino alongside Presto, on the same tables: the same statements and results, and Trino's own command line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.test_portable import QUERIES, plain_rows
from questlog.errors import NotInstalled, QueryError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.stack import Stack, addresses
from questlog.stack.layout import find_trino_java

if TYPE_CHECKING:
    from cluster.conftest import Shop

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]
"""The first use downloads it."""
FIVE = [
    "show tables",
    "describe purchases",
    "select * from purchases order by event_id",
    "select host as host, count(*) as count from join_guild group by host order by host",
    "select count(*) as count from join_guild",
]
"""The statements of the story test, on the shop's tables."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def trino(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Trino alone, on the metastore and files of the shared stack."""
    if "QUESTLOG_TRINO_STACK" in os.environ:
        yield Stack(os.environ["QUESTLOG_TRINO_STACK"])
        return
    try:
        find_trino_java()
    except NotInstalled as error:
        pytest.skip(f"{error}: {error.hint}")
    theirs = stack.layout.ports
    ports = f"metastore={theirs['metastore']} namenode={theirs['namenode']} trino={free_port()}"
    with Stack(tmp_path_factory.mktemp("trino"), ports=ports, only=["trino"]) as running:
        yield running


@pytest.fixture(scope="module")
def through_trino(shop: Shop, trino: Stack) -> Iterator[Pipeline]:
    """The shop's project on the cluster profile, with Trino as its query engine."""
    options = {"url": addresses(trino.folder).trino}
    with open_pipeline(
        shop.embedded.project.root, profile="cluster", namespace=shop.server.schema, presto=options
    ) as pipeline:
        yield pipeline


@pytest.mark.parametrize("statement", FIVE)
def test_the_five_statements_answer_as_on_a_laptop(shop: Shop, through_trino: Pipeline, statement: str) -> None:
    assert through_trino.sql(statement).rows() == shop.embedded.sql(statement).rows()


@pytest.mark.parametrize(("name", "sql"), QUERIES, ids=[name for name, _ in QUERIES])
def test_trino_agrees_on_the_corpus(shop: Shop, through_trino: Pipeline, name: str, sql: str) -> None:
    assert plain_rows(through_trino.sql(sql).rows()) == plain_rows(shop.embedded.sql(sql).rows())


def test_each_engine_keeps_a_view_of_all_events_that_it_can_read(shop: Shop, through_trino: Pipeline) -> None:
    """The catalog has one view of that name, in the dialect of the engine that wrote it last."""
    count = "select count(*) from events"
    expected = shop.embedded.sql(count).rows()
    assert through_trino.sql(count).rows() == expected
    assert shop.presto.run(count).rows() == expected
    assert through_trino.sql(count).rows() == expected


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select * from purchase", "did you mean purchases?"),
        ("select itme from purchases", "Column 'itme' cannot be resolved"),
        ("drop table purchases", "drop is refused: only statements that read"),
    ],
)
def test_an_error_explains_the_cause(through_trino: Pipeline, statement: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        through_trino.sql(statement)
    assert message in str(refused.value)


def test_trinos_own_command_line_works_through_the_stack(shop: Shop, trino: Stack) -> None:
    words = [sys.executable, "-m", "questlog", "-C", str(shop.embedded.project.root), "stack"]
    words += ["--dir", str(trino.folder), "exec", "trino", "--schema", shop.server.schema, "--output-format", "TSV"]
    text = "select host as host, count(*) as count from join_guild group by host order by host"
    ran = subprocess.run([*words, "--execute", text], capture_output=True, text=True, timeout=200)
    expected = shop.embedded.sql(text).rows()
    assert ([line.split("\t") for line in ran.stdout.splitlines()]) == [[h, str(n)] for h, n in expected], ran.stderr


def test_trino_is_not_downloaded_unless_requested(tmp_path: Path) -> None:
    usual, more = Stack(tmp_path), Stack(tmp_path, also=["trino"])
    assert "trino" not in {server.part for server in usual.servers}
    assert [s.name for s in more.servers] == [*(s.name for s in usual.servers), "trino"]
