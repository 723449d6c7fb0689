"""Which catalog Spark is told of, and where a warehouse lies: by the scheme of an address."""

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
def test_the_scheme_says_which_catalog_it_is(address: str, kind: str) -> None:
    said = catalog_options(address, "w")
    assert (said["spark.sql.catalog.lake.type"], said["spark.sql.catalog.lake.uri"]) == (kind, address)
    assert ("spark.hadoop.iceberg.hive.lock-heartbeat-interval-ms" in said) == (kind == "hive")


def test_an_address_of_no_known_catalog_is_refused_with_both_kinds() -> None:
    with pytest.raises(QuestlogError, match="is not a valid address") as refused:
        catalog_options("metastore.example:9083", "w")
    assert "thrift://" in refused.value.hint and "https://" in refused.value.hint
