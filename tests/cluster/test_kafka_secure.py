"""A broker with TLS and passwords: topic, forwarder and lander connect, and no secret leaks."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster.certificates import make_certificates
from support.cluster.cluster_project import environment
from support.cluster.kafka_broker import Broker
from support.cluster.spark_options import SPARK_LINES

pytest.importorskip("pyspark", reason="pip install 'questlog[cluster]'")
from questlog.errors import LogUnavailable, QuestlogError
from questlog.log.kafka.spool import Spool
from questlog.log.kafka.topic import create_topic, describe_topic
from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.record import encode_record
from questlog.settings import load_settings
from questlog.stack import Stack, jars

pytestmark = pytest.mark.full
SCRAM, PLAIN = "scram-s3cret", r'pl"ain\s3cret = {;'
"""The second one tests quoting."""
WRONG = "wr0ng-s3cret"
LOGIN = "org.apache.kafka.common.security.{0}"
PROPERTIES = r"""
process.roles={roles}
node.id={node}
listeners=SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT
inter.broker.listener.name=SASL_SSL
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=16777216
ssl.keystore.type=PEM
ssl.keystore.location={data}/../server.pem
ssl.truststore.type=PEM
ssl.truststore.location={data}/../ca.pem
listener.name.sasl_ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=PLAIN
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
  org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=\
  org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" password="broker" \
  user_broker="broker" user_questlog="pl\\"ain\\\\s3cret = {{;";
"""
LOG_ALL = """
rootLogger.level = info
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %p %c: %m%n%ex
logger.kafka.name = org.apache.kafka
logger.kafka.level = debug
logger.source.name = org.apache.spark.sql.kafka010
logger.source.level = debug
"""
PLAN = '[game]\nname = "swords"\n[events.join_guild.fields]\nguild = "string"\n'


class SecureBroker(Broker):
    """A broker with one user, for both mechanisms, that requires a client certificate."""

    properties = PROPERTIES
    users = (f"SCRAM-SHA-512=[name=questlog,password={SCRAM}]",)

    def __init__(self, folder: Path) -> None:
        self.certificates = make_certificates(folder)
        self.authority = self.certificates.authority
        self.client = {
            "security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "questlog",
            "sasl.password": PLAIN, "ssl.ca.location": str(self.authority),
            "ssl.certificate.location": str(self.certificates.client),
            "ssl.key.location": str(self.certificates.client_key),
        }  # fmt: skip
        super().__init__(folder)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    broker = SecureBroker(tmp_path_factory.mktemp("secure"))
    yield broker
    broker.kill()


def project(
    folder: Path, broker: SecureBroker, authority: Path | None, mechanism: str, password: str, stack: Stack
) -> Path:
    """Return a project whose settings name the broker; its password is in a separate file."""
    folder.mkdir()
    (folder / "plan.toml").write_text(PLAN)
    (folder / "secret").write_text(password + "\n")
    name, at = f"secure_{os.getpid()}_{folder.name}", stack.addresses
    trusted = f'ssl.ca.location = "{authority}"\n' if authority else ""
    (folder / "questlog.toml").write_text(
        f'profile = "cluster"\ntopic = "{name}"\nnamespace = "{name}"\nmetastore = "{at.metastore}"\n'
        f'warehouse = "{at.warehouse}"\nspark_master = "local[2]"\n[kafka]\nbootstrap.servers = "{broker.address}"\n'
        f'security.protocol = "SASL_SSL"\nsasl.mechanism = "{mechanism}"\nsasl.username = "questlog"\n'
        f'sasl.password = {{ file = "secret" }}\n{trusted}'
        f'ssl.certificate.location = "{broker.certificates.client}"\n'
        f'ssl.key.location = "{broker.certificates.client_key}"\n[spark]\n{SPARK_LINES}\n'
        f'spark.jars = "{",".join(jars("spark"))}"\n'
    )
    return folder


def make_topic(folder: Path) -> None:
    settings = load_settings(folder / "questlog.toml")
    create_topic(settings.kafka, settings.topic, partitions=1, replication=1, retention_hours=1)


def forward(folder: Path) -> None:
    """Log three events and forward them."""
    pipeline = open_pipeline(folder)
    assert isinstance(pipeline, ClusterPipeline)
    body = b'{"event_type": "join_guild", "guild": "wolves"}'
    pipeline.log.append([encode_record(body, id=f"e{n}", received_ms=1_795_000_000_000) for n in range(3)])
    with Spool(pipeline.project.data, pipeline.project.log_folder) as spool:
        pipeline.forwarder(spool).drain(threading.Event())


def test_topic_and_forwarder_connect_without_leaking_a_secret(
    secure: SecureBroker,
    stack: Stack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for mechanism, password in (("SCRAM-SHA-512", SCRAM), ("PLAIN", PLAIN)):
        folder = project(tmp_path / mechanism, secure, secure.authority, mechanism, password, stack)
        make_topic(folder)
        forward(folder)
        settings = load_settings(folder / "questlog.toml")
        assert describe_topic(settings.kafka, settings.topic).records == 3
    output = caplog.text + "".join(capfd.readouterr())
    assert [secret for secret in (SCRAM, PLAIN, "ain\\s3cret") if secret in output] == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mechanism", "password"), [("PLAIN", PLAIN), ("SCRAM-SHA-512", SCRAM)])
def test_a_landing_connects_and_spark_shows_the_secret_nowhere(
    secure: SecureBroker, stack: Stack, tmp_path: Path, mechanism: str, password: str
) -> None:
    """Spark shows as much as it can: its log, with Kafka at DEBUG, its event log, and its pages."""
    folder = project(
        tmp_path / mechanism.lower().replace("-", "_"), secure, secure.authority, mechanism, password, stack
    )
    make_topic(folder)
    forward(folder)
    events, ui, logging = tmp_path / "events", free_port(), tmp_path / "log4j2.properties"
    events.mkdir()
    logging.write_text(LOG_ALL)
    with (folder / "questlog.toml").open("a") as settings:
        settings.write(
            f'spark.ui.enabled = true\nspark.ui.port = {ui}\nspark.log.level = "INFO"\n'
            f'spark.eventLog.enabled = true\nspark.eventLog.compress = false\nspark.eventLog.dir = "file://{events}"\n'
            f'spark.driver.extraJavaOptions = "-Dlog4j2.configurationFile={logging}"\n'
            f'[presto]\nurl = "{stack.addresses.presto}"\n'
        )
    seen = set[str]()
    with (tmp_path / "lander.log").open("wb") as log:
        lander = subprocess.Popen(
            [sys.executable, "-m", "questlog", "-C", str(folder), "land"], stdout=log, stderr=log, env=environment()
        )
        while lander.poll() is None:
            seen |= {*command_lines(), *pages(ui)}
            time.sleep(0.5)  # samples the process list and Spark's pages
    output = (tmp_path / "lander.log").read_text()
    assert lander.returncode == 0, output[-3000:]
    with open_pipeline(folder) as pipeline:
        assert pipeline.sql("select event_id, guild from join_guild order by event_id").rows() == [
            ("e0", "wolves"), ("e1", "wolves"), ("e2", "wolves"),
        ]  # fmt: skip
    shown = "".join(seen)
    assert "deploy.SparkSubmit" in shown and "spark.eventLog.dir" in shown  # the samples include processes and pages
    assert "sasl.jaas.config = [hidden]" in output  # Kafka's client logged its settings
    written = "".join(path.read_text("utf-8", "replace") for path in events.rglob("*") if path.is_file())
    assert "KafkaV2[Subscribe" in written  # the event log describes the stream
    secrets = SCRAM if password == SCRAM else "s3cret = {", "PRIVATE KEY"  # the part that no quoting changes
    outputs = {"log": output, "pages": shown, "events": written}
    assert [(where, secret) for where, text in outputs.items() for secret in secrets if secret in text] == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def command_lines() -> Iterator[str]:
    """Yield the command lines of all processes, as every user of the machine sees them."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode("utf-8", "replace")


def pages(port: int) -> Iterator[str]:
    """Yield Spark's current pages; nothing while Spark is not running."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        (application,) = json.loads(page(port, "/api/v1/applications"))
        api = f"/api/v1/applications/{application['id']}"
        for path in ("/environment/", "/SQL/", "/StreamingQuery/", f"{api}/environment", f"{api}/sql?details=true"):
            yield page(port, path)


def page(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode("utf-8", "replace")
    finally:
        connection.close()


def test_a_wrong_password_is_reported_as_such(secure: SecureBroker, stack: Stack, tmp_path: Path) -> None:
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        folder = project(tmp_path / mechanism, secure, secure.authority, mechanism, WRONG, stack)
        with pytest.raises(LogUnavailable, match="rejects the credentials") as refused:
            make_topic(folder)
        assert WRONG not in f"{refused.value} {refused.value.hint} {refused.value!r} {refused.value.__cause__!r}"


def test_a_client_without_a_certificate_is_rejected(secure: SecureBroker, stack: Stack, tmp_path: Path) -> None:
    folder = project(tmp_path / "nameless", secure, secure.authority, "PLAIN", PLAIN, stack)
    settings = folder / "questlog.toml"
    kept = [line for line in settings.read_text().splitlines() if not line.startswith(("ssl.certificate", "ssl.key"))]
    settings.write_text("\n".join(kept))
    with pytest.raises(LogUnavailable):
        make_topic(folder)


def test_a_broker_of_an_unknown_authority_is_not_trusted(secure: SecureBroker, stack: Stack, tmp_path: Path) -> None:
    folder = project(tmp_path / "unknown", secure, None, "PLAIN", PLAIN, stack)
    with pytest.raises(LogUnavailable, match="certificate") as refused:
        make_topic(folder)
    assert "ssl.ca.location" in refused.value.hint
    assert PLAIN not in f"{refused.value!r} {refused.value.__cause__!r}"


def test_a_secret_in_the_settings_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "questlog.toml").write_text(f'[kafka]\nsasl.password = "{SCRAM}"\n')
    with pytest.raises(QuestlogError, match="QUESTLOG_KAFKA_SASL_PASSWORD") as refused:
        load_settings(tmp_path / "questlog.toml")
    assert SCRAM not in str(refused.value)
