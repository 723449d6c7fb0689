"""Presto and Trino with TLS and a password: queries work, and the password never leaks."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.test_portable import QUERIES, plain_rows
from questlog.errors import NotInstalled, QueryError
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.stack import Stack
from questlog.stack.layout import find_trino_java
from support.cluster.cluster_project import environment
from support.cluster.sql_server import SecureEngine

if TYPE_CHECKING:
    from cluster.conftest import Shop

pytestmark = [pytest.mark.timeout(900), pytest.mark.full]
"""The first use downloads them."""
USER, PASSWORD, WRONG = "ada", "s3cret: Ünd mehr", "wr0ng-s3cret"
"""Characters that the header must encode: a colon, a space, a non-ASCII letter."""


@pytest.fixture(scope="module", params=["presto", "trino"])
def engine(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureEngine]:
    if request.param == "trino":
        try:
            find_trino_java()
        except NotInstalled as error:
            pytest.skip(f"{error}: {error.hint}")
        from questlog.stack.fetch import fetch

        fetch("trino")
    server = SecureEngine(request.param, tmp_path_factory.mktemp(request.param), stack, {USER: PASSWORD})
    yield server
    server.kill()


@pytest.fixture
def folder(engine: SecureEngine, stack: Stack, shop: Shop, tmp_path: Path) -> Path:
    """The shop's project on the cluster, with its password in a file."""
    shutil.copy(shop.embedded.project.plan_path, tmp_path)
    at = stack.addresses
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    (tmp_path / "questlog.toml").write_text(
        f'profile = "cluster"\ntopic = "{shop.server.schema}"\nnamespace = "{shop.server.schema}"\n'
        f'metastore = "{at.metastore}"\nwarehouse = "{at.warehouse}"\n[kafka]\nbootstrap.servers = "{at.kafka}"\n'
        f'[presto]\nurl = "{engine.url}"\nuser = "{USER}"\npassword = {{ file = "secret" }}\n'
        f'ca.location = "{engine.authority}"\n'
    )
    with opened(tmp_path) as pipeline:
        engine.wait(pipeline.sql, "join_guild")
    return tmp_path


def opened(folder: Path) -> ClusterPipeline:
    pipeline = open_pipeline(folder)
    assert isinstance(pipeline, ClusterPipeline)
    return pipeline


def test_sql_answers_as_on_a_laptop_without_leaking_the_password(
    engine: SecureEngine, folder: Path, shop: Shop, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(folder) as pipeline:
        for _, text in [*QUERIES[:3], ("view", "select count(*) from events"), ("tables", "show tables")]:
            assert plain_rows(pipeline.sql(text).rows()) == plain_rows(shop.embedded.sql(text).rows())
        assert pipeline.engine.committed(30).tables == {}  # nothing landed here: the shop's tables are copies
    output = caplog.text + "".join(capfd.readouterr()) + repr(pipeline.engine) + engine.log
    assert PASSWORD not in output


def test_the_commands_read_the_password_from_the_environment_and_never_show_it(
    engine: SecureEngine, folder: Path, shop: Shop
) -> None:
    settings = folder / "questlog.toml"
    settings.write_text(settings.read_text().replace('password = { file = "secret" }\n', ""))
    (folder / "secret").unlink()
    outputs: dict[str, str] = {}
    for command in ("sql --json select(count(*))from(events)", "status --json", "doctor --json"):
        ran = subprocess.Popen(
            [sys.executable, "-m", "questlog", "-C", str(folder), *command.split()],
            env={**environment(), "QUESTLOG_PRESTO_PASSWORD": PASSWORD},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while ran.poll() is None:
            assert PASSWORD not in processes()
            time.sleep(0.1)  # samples the process list
        assert ran.stdout is not None
        outputs[command.split()[0]] = ran.stdout.read()
    assert shop.embedded.sql("select count(*) from events").rows() == [tuple(json.loads(outputs["sql"])[0].values())]
    assert "trouble" not in json.loads(outputs["status"])["lake"]
    assert [command for command, output in outputs.items() if PASSWORD in output] == []
    kept = [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert kept == []


def processes() -> str:
    """Return the command lines of all processes, as `ps` shows them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(lines)


def test_a_wrong_password_is_reported_at_once(engine: SecureEngine, folder: Path) -> None:
    for wrong in (WRONG, ""):
        (folder / "secret").write_text(wrong)
        started = time.monotonic()
        with (
            opened(folder) as pipeline,
            pytest.raises(QueryError, match="rejected the user name") as refused,
        ):
            pipeline.sql("select 1")
        assert time.monotonic() - started < 60  # it is not taken for a server that is only starting
        assert "QUESTLOG_PRESTO_PASSWORD" in refused.value.hint
        assert WRONG not in f"{refused.value!r} {refused.value.hint} {refused.value.__cause__!r}"


def test_no_password_is_sent_to_a_server_of_an_unknown_authority(engine: SecureEngine, folder: Path) -> None:
    settings = folder / "questlog.toml"
    settings.write_text("\n".join(line for line in settings.read_text().splitlines() if "ca.location" not in line))
    with opened(folder) as pipeline, pytest.raises(QueryError, match="certificate") as refused:
        pipeline.sql("select 1")
    assert "ca.location" in refused.value.hint
