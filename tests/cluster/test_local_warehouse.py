"""A warehouse on a local path: Metastore, Spark and Presto on one machine share a folder; HDFS is not used."""

# ruff: noqa: F401, F811 -- fixtures of the other modules
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_spark_backfill import test_events_of_a_type_that_was_unknown_move_from_quarantine_to_their_table_once
from cluster.test_spark_lander import GUILD, Game, other_catalog, spark
from questlog.land.spark.maintenance import SparkMaintenance
from questlog.query.presto import PrestoServer
from questlog.query.presto.client import run
from questlog.settings import load_settings
from questlog.stack import Stack

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]


@pytest.fixture
def game(tmp_path: Path, servers: dict[str, str], spark: Any) -> Iterator[Game]:
    """A game whose tables lie below a folder of this machine."""
    (tmp_path / "questlog.toml").write_text(f'warehouse = "{tmp_path}/ware"\n')  # without file://, as people write it
    warehouse = load_settings(tmp_path / "questlog.toml").warehouse
    theirs = {**servers, "warehouse": warehouse}
    game = Game(tmp_path, theirs, other_catalog(spark, theirs["metastore"], warehouse))
    yield game
    game.pipeline.log.close()  # type: ignore[attr-defined]


def test_presto_reads_tables_on_a_local_path_before_and_after_maintenance(game: Game, stack: Stack) -> None:
    for _ in range(3):
        game.send(GUILD)
        game.forward()
        game.land()
    with game.lander() as lander:
        lander.take_over()
        maintenance = SparkMaintenance(lander.catalog.twin(), game.name, lambda: 24.0, every=0, keep=0)
        maintenance.maintain(game.name, "join_guild")
        lander.drain()
    files = [path for path in (game.folder / "ware").rglob("*.parquet") if "/join_guild/" in str(path)]
    assert len(files) >= 3
    server = PrestoServer(stack.addresses.presto, "iceberg", game.name)
    assert run(server, "select guild, count(*) from join_guild group by guild", 120).rows == [["wolves", 3]]


def test_a_path_without_a_scheme_is_local_for_every_server(tmp_path: Path) -> None:
    (tmp_path / "questlog.toml").write_text('warehouse = "/srv/lake"\n')
    assert load_settings(tmp_path / "questlog.toml").warehouse == "file:///srv/lake"
