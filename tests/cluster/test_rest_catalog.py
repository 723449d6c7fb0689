"""An Iceberg REST catalog in the Metastore's place: the lander's own tests, on a real server, and Trino on the tables.

Presto 0.287 knows no such catalog.
"""

# ruff: noqa: F401, F811 -- fixtures of the other modules
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_fence import (
    test_a_lander_stopped_between_its_check_and_its_commit_commits_nothing,
    test_two_landers_that_start_at_the_same_moment_get_different_epochs,
)
from cluster.test_spark_backfill import test_events_of_a_type_that_was_unknown_move_from_quarantine_to_their_table_once
from cluster.test_spark_lander import (
    GUILD,
    Game,
    other_catalog,
    spark,
    test_a_batch_interrupted_after_any_commit_is_finished_without_duplicates,
)
from questlog.errors import NotInstalled, QueryError, QuestlogError
from questlog.land.spark.commits import release_locks
from questlog.land.spark.maintenance import SparkMaintenance
from questlog.pipeline import open_pipeline
from questlog.query.presto import open_engine
from questlog.report.cluster import metastore_down
from questlog.stack import Stack
from questlog.stack.fetch import fetch
from questlog.stack.layout import find_trino_java
from support.cluster.rest_catalog import RestCatalog
from support.cluster.sql_server import Engine

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]
TRINO = """
connector.name=iceberg
iceberg.catalog.type=rest
iceberg.rest-catalog.uri={url}
fs.hadoop.enabled=true
hive.config.resources={etc}/hadoop/core-site.xml,{etc}/hadoop/hdfs-site.xml
"""


@pytest.fixture(scope="module")
def catalog(servers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestCatalog]:
    catalog = RestCatalog(tmp_path_factory.mktemp("rest"), f"{servers['warehouse']}/rest")
    yield catalog
    catalog.stop()


@pytest.fixture
def game(tmp_path: Path, servers: dict[str, str], catalog: RestCatalog, spark: Any) -> Iterator[Game]:
    """A game whose tables the REST catalog keeps."""
    theirs = {**servers, "metastore": catalog.url}
    game = Game(tmp_path, theirs, other_catalog(spark, catalog.url, servers["warehouse"]))
    yield game
    game.pipeline.log.close()  # type: ignore[attr-defined]


def test_there_are_no_locks_to_release_and_status_shows_whether_it_is_up(game: Game, catalog: RestCatalog) -> None:
    assert release_locks(game.spark, (game.name,)) == 0
    assert metastore_down(catalog.url) == ""
    assert "does not answer" in metastore_down("http://127.0.0.1:9")


def test_the_parquet_export_requires_a_metastore(game: Game) -> None:
    with open_pipeline(game.folder) as pipeline, pytest.raises(QuestlogError, match="is an Iceberg REST catalog"):
        pipeline.export()


def test_trino_answers_from_the_same_catalog(game: Game, stack: Stack, catalog: RestCatalog, tmp_path: Path) -> None:
    """After table maintenance."""
    try:
        find_trino_java()
    except NotInstalled as error:
        pytest.skip(f"{error}: {error.hint}")
    fetch("trino")
    for _ in range(3):
        game.send(GUILD, b"not json")
        game.forward()
        game.land()
    with game.lander() as lander:
        lander.take_over()
        maintenance = SparkMaintenance(lander.catalog.twin(), game.name, lambda: 24.0, every=0, keep=0)
        maintenance.maintain(game.name, "join_guild")
    (tmp_path / "trino").mkdir()
    engine = Engine("trino", tmp_path / "trino", stack, TRINO.format(url=catalog.url, etc=tmp_path / "trino" / "etc"))
    try:
        trino = open_engine({"url": engine.url}, game.name, lambda: game.pipeline.plan, seconds=120)
        engine.wait(trino.run, "join_guild")
        assert trino.run("select guild, count(*) from join_guild group by guild").rows() == [("wolves", 3)]
        assert trino.run("select count(*) from events").rows() == [(3,)]
        names = [name for name, *_ in trino.run("show tables").rows()]
        assert names == ["events", "join_guild", "quarantine", "sword_purchases"]
        committed = trino.committed(120)
        assert (committed.landed, committed.quarantined_records, committed.half_landed) == (3, 3, False)
    finally:
        engine.kill()
