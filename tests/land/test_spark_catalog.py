"""The scheme of an address selects Spark's catalog and the place of the warehouse."""

import pytest

from questlog.errors import QuestlogError
from questlog.land.spark.session import catalog_options


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("thrift://one:9083,thrift://two:9083", "hive"),
        ("http://127.0.0.1:8181", "rest"),
        ("https://catalog.example/api", "rest"),
    ],
)
def test_the_scheme_selects_the_catalog(address: str, kind: str) -> None:
    options = catalog_options(address, "w")
    assert (options["spark.sql.catalog.lake.type"], options["spark.sql.catalog.lake.uri"]) == (kind, address)
    assert ("spark.hadoop.iceberg.hive.lock-heartbeat-interval-ms" in options) == (kind == "hive")


def test_an_invalid_address_is_refused_with_both_valid_forms() -> None:
    with pytest.raises(QuestlogError, match="is not a valid address") as refused:
        catalog_options("metastore.example:9083", "w")
    assert "thrift://" in refused.value.hint and "https://" in refused.value.hint
