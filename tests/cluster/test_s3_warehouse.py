"""A warehouse on S3 with a REST catalog: questlog lands through Iceberg's own S3 client, and Trino reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.paths import CLUSTER

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from cluster.test_kafka_secure import command_lines
from questlog.errors import NotInstalled
from questlog.query.presto import open_engine
from questlog.stack import Stack
from questlog.stack.fetch import HOME, fetch
from questlog.stack.layout import find_trino_java
from support.cluster.cluster_project import Project, environment
from support.cluster.rest_catalog import RestCatalog
from support.cluster.s3_server import S3Server
from support.cluster.sql_server import Engine

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]
USER, SECRET = "lander", "s3-s3cret"
GUILD = b'{"event_type": "join_guild", "guild": "wolves"}'
PARTS = [("s3", HOME), ("rest-catalog-s3", CLUSTER)]
PLAIN_S3 = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}
"""Amazon's client appends checksums that only Amazon's servers understand; this turns them off."""
TRINO = """
connector.name=iceberg
iceberg.catalog.type=rest
iceberg.rest-catalog.uri={catalog}
fs.native-s3.enabled=true
s3.endpoint={s3}
s3.region=us-east-1
s3.path-style-access=true
s3.aws-access-key={user}
s3.aws-secret-key={secret}
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"), USER, SECRET)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def catalog(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestCatalog]:
    options = {
        "io-impl": "org.apache.iceberg.aws.s3.S3FileIO", "s3.endpoint": s3.url, "s3.path-style-access": "true",
        "s3.access-key-id": USER, "s3.secret-access-key": SECRET, "client.region": "us-east-1",
        "http-client.type": "urlconnection",  # the one that both have: the server is older than Spark's client
    }  # fmt: skip
    catalog = RestCatalog(
        tmp_path_factory.mktemp("rest"),
        "s3://lake/warehouse",
        options,
        [f"{fetch(part, home=home)}/*" for part, home in PARTS],
    )
    yield catalog
    catalog.stop()


@pytest.fixture
def project(tmp_path: Path, stack: Stack, s3: S3Server, catalog: RestCatalog) -> Project:
    """A game whose settings name the bucket and the catalog; the key is in a separate file."""
    (tmp_path / "key").write_text(SECRET + "\n")
    project = Project(tmp_path, stack)
    lake = "spark.sql.catalog.lake"
    project.configure(
        metastore=catalog.url, warehouse="s3://lake/warehouse",
        spark=f'{lake}.s3.endpoint = "{s3.url}"\n{lake}.s3.path-style-access = true\n'
        f'{lake}.s3.access-key-id = "{USER}"\n{lake}.s3.secret-access-key = {{ file = "key" }}\n'
        f'{lake}.client.region = "us-east-1"',
    )  # fmt: skip
    return project


def land(project: Project, **more: str) -> tuple[dict[str, int], str]:
    """Run `questlog land`; return the number of rows it landed, and what the process list showed in the meantime."""
    shown = set[str]()
    ran = subprocess.Popen(
        [sys.executable, "-m", "questlog", "-C", str(project.folder), "land", "--json"],
        env={**environment(), **PLAIN_S3, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while ran.poll() is None:
        shown.update(command_lines())
        time.sleep(0.5)  # samples the process list
    out, errors = ran.communicate()
    assert ran.returncode == 0, errors
    assert SECRET not in out + errors
    rows: dict[str, int] = json.loads(out)["rows"]
    return rows, "".join(shown)


def test_landing_writes_to_the_bucket_and_trino_reads_it(
    project: Project, s3: S3Server, catalog: RestCatalog, stack: Stack, tmp_path: Path
) -> None:
    """The key comes from a file first, then from the environment variables of Amazon's own client."""
    project.run("topic", "create")
    project.record(*[GUILD] * 3, b"not json")
    rows, shown = land(project)
    assert rows == {"join_guild": 3, "quarantine": 1}
    assert "deploy.SparkSubmit" in shown and SECRET not in shown
    settings = project.folder / "questlog.toml"
    kept = [line for line in settings.read_text().splitlines() if "access-key" not in line]
    settings.write_text("\n".join(kept))
    project.record(GUILD)
    rows, shown = land(project, AWS_ACCESS_KEY_ID=USER, AWS_SECRET_ACCESS_KEY=SECRET)
    assert rows == {"join_guild": 1} and SECRET not in shown
    files = [path for path in s3.bucket.rglob("*.parquet") if "/join_guild/" in str(path)]
    assert len(files) == 2
    try:
        find_trino_java()
    except NotInstalled as error:
        pytest.skip(f"{error}: {error.hint}")
    fetch("trino")
    (tmp_path / "trino").mkdir()
    words = {"catalog": catalog.url, "s3": s3.url, "user": USER, "secret": SECRET}
    engine = Engine("trino", tmp_path / "trino", stack, TRINO.format(**words))
    try:
        trino = open_engine({"url": engine.url}, project.name, lambda: None, seconds=120)  # type: ignore[arg-type, return-value]
        engine.wait(trino.run, "join_guild")
        assert trino.run("select guild, count(*) from join_guild group by guild").rows() == [("wolves", 4)]
        assert trino.run("select reason from quarantine").rows() == [("not_json",)]
    finally:
        engine.kill()


def test_a_wrong_key_is_reported_without_showing_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(PLAIN_S3.items())))
    (project.folder / "key").write_text("wr0ng-key")
    project.run("topic", "create")
    project.record(GUILD)
    ran = project.run("land", code=1)
    assert "questlog: Spark failed: " in ran.stderr
    assert [word for word in ("Traceback", "wr0ng-key", SECRET) if word in ran.stdout + ran.stderr] == []
