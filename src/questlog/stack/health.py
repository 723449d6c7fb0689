"""Health checks: each performs a client's operation, because an open port proves nothing.

A check returns a short description of what it did, or raises.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from questlog.errors import NotInstalled, QuestlogError
from questlog.stack.spark import spark_environment

if TYPE_CHECKING:
    from questlog.stack.layout import StackLayout

HEALTH_TOPIC = "_questlog_health"
_SECONDS = 10.0
"""Limit for one operation."""
_JOB_SECONDS = 150.0
"""Limit for a task, which starts two JVMs: a minute on a busy machine."""


def kafka(layout: StackLayout) -> str:
    """Produce one record and consume it."""
    try:
        from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
        from confluent_kafka.admin import AdminClient, NewTopic
    except ImportError as error:
        raise NotInstalled("confluent-kafka is not installed", hint="pip install 'questlog[cluster]'") from error
    servers: dict[str, Any] = {
        "bootstrap.servers": f"127.0.0.1:{layout.ports['kafka']}",
        "log_level": 0,
        "error_cb": lambda error: None,  # errors are raised below, once
    }
    try:
        admin = AdminClient(servers)
        if HEALTH_TOPIC not in admin.list_topics(timeout=_SECONDS).topics:
            topic = NewTopic(HEALTH_TOPIC, 1, 1, config={"retention.ms": "3600000", "segment.ms": "3600000"})
            admin.create_topics([topic], operation_timeout=_SECONDS)[HEALTH_TOPIC].result(_SECONDS)
        sent, delivered = uuid.uuid4().bytes, []
        producer = Producer({**servers, "acks": "all", "message.timeout.ms": int(_SECONDS * 1000)})
        producer.produce(HEALTH_TOPIC, sent, on_delivery=lambda error, message: delivered.append((error, message)))
        producer.flush(_SECONDS)
        if not delivered or delivered[0][0] is not None:
            raise QuestlogError(f"a record was not delivered: {delivered[0][0] if delivered else 'no answer'}")
        consumer = Consumer({**servers, "group.id": HEALTH_TOPIC, "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(HEALTH_TOPIC, 0, delivered[0][1].offset())])
            deadline = time.monotonic() + _SECONDS
            while time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None and message.error() is None and message.value() == sent:
                    return "produced and consumed"
        finally:
            consumer.close()
    except KafkaException as error:
        raise QuestlogError(str(error)) from error
    raise QuestlogError("a record was delivered but could not be consumed")


def namenode(layout: StackLayout) -> str:
    """List the root folder; safe mode is an error."""
    port = layout.ports["namenode_http"]
    _, body, _ = _http("GET", f"http://127.0.0.1:{port}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo")
    info = json.loads(body)["beans"][0]
    # while no DataNode has registered, blocks cannot be counted; the DataNode's own check covers that
    if info["Safemode"] and int(info["TotalBlocks"]) == 0:
        raise QuestlogError(f"in safe mode: {info['Safemode']}")
    status, body, _ = _http("GET", f"http://127.0.0.1:{port}/webhdfs/v1/?op=LISTSTATUS")
    if status != 200:
        raise QuestlogError(f"cannot list the root folder: {body[:200]!r}")
    return "listed /"


def datanode(layout: StackLayout) -> str:
    """Write a file and read it."""
    path = f"http://127.0.0.1:{layout.ports['namenode_http']}/webhdfs/v1/tmp/questlog-health-{uuid.uuid4().hex[:8]}"
    sent = uuid.uuid4().bytes
    status, body = _redirected("PUT", f"{path}?op=CREATE&overwrite=true", sent)
    if status != 201:
        raise QuestlogError(f"cannot write a file: {_remote(body)}")
    status, body = _redirected("GET", f"{path}?op=OPEN")
    _http("DELETE", f"{path}?op=DELETE")
    if status != 200 or body != sent:
        raise QuestlogError(f"cannot read the written file: {_remote(body)}")
    return "wrote and read a file"


def metastore(layout: StackLayout) -> str:
    """List the databases."""
    try:
        from hive_metastore.ThriftHiveMetastore import Client
        from thrift.protocol import TBinaryProtocol
        from thrift.Thrift import TException
        from thrift.transport import TSocket, TTransport
    except ImportError as error:
        raise NotInstalled("thrift is not installed", hint="pip install 'questlog[cluster]'") from error
    logging.getLogger("thrift").setLevel(logging.CRITICAL)  # it prints errors that are raised anyway
    socket = TSocket.TSocket("127.0.0.1", layout.ports["metastore"])
    socket.setTimeout(_SECONDS * 1000)
    transport = TTransport.TBufferedTransport(socket)
    try:
        transport.open()
        names = Client(TBinaryProtocol.TBinaryProtocol(transport)).get_all_databases()
    except (TException, OSError) as error:
        raise QuestlogError(str(error)) from error
    finally:
        transport.close()
    return f"listed {len(names)} databases"


def presto(layout: StackLayout) -> str:
    """Run a query on the Iceberg catalog."""
    return _list_schemas(f"http://127.0.0.1:{layout.ports['presto']}")


def trino(layout: StackLayout) -> str:
    """Run a query on the Iceberg catalog."""
    return _list_schemas(f"trino+http://127.0.0.1:{layout.ports['trino']}")


def spark(layout: StackLayout) -> str:
    """List the master's workers."""
    return f"listed {len(_workers(layout))} workers"


def spark_worker(layout: StackLayout) -> str:
    """Run a task in Python, unless the worker already runs an application's executors."""
    mine = [each for each in _workers(layout) if each["port"] == layout.ports["spark_worker"]]
    if not mine:
        raise QuestlogError("it has not registered with the master yet")
    if mine[0]["coresused"]:
        return f"runs executors on {mine[0]['coresused']} of its {mine[0]['cores']} cores"
    master = f"spark://127.0.0.1:{layout.ports['spark']}"
    command = [sys.executable, "-m", "questlog.stack.try_spark", master]
    environment = {**os.environ, **spark_environment(layout)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as job:
        try:
            output, _ = job.communicate(timeout=_JOB_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise QuestlogError(f"a task took more than {_JOB_SECONDS:g} s") from None
    if output.split()[-1:] != ["42"]:
        reasons = [line for line in output.splitlines() if "Exception" in line or "Error" in line]
        raise QuestlogError(f"a task failed: {(reasons or output.splitlines() or ['no output'])[-1][:300]}")
    return "ran a task in Python"


def _workers(layout: StackLayout) -> list[dict[str, Any]]:
    """Return the workers that are alive by the master's account."""
    _, body, _ = _http("GET", f"http://127.0.0.1:{layout.ports['spark_ui']}/json/")
    master = json.loads(body)
    if master["status"] != "ALIVE":
        raise QuestlogError(f"the master is {master['status'].lower()}")
    return [worker for worker in master["workers"] if worker["state"] == "ALIVE"]


def _list_schemas(url: str) -> str:
    """List the schemas of the Iceberg catalog of the engine at *url*."""
    from questlog.query.presto.client import PrestoServer, run

    answer = run(PrestoServer(url, "iceberg", ""), "show schemas", 3 * _SECONDS, _SECONDS, retry_seconds=0)
    return f"listed {len(answer.rows)} schemas of the Iceberg catalog"


def _http(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Return status, body and the target of a redirect."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_SECONDS)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Location", "")
    except (OSError, http.client.HTTPException) as error:
        raise QuestlogError(str(error) or type(error).__name__) from error
    finally:
        connection.close()


def _redirected(method: str, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request to the NameNode and follow its redirect to the DataNode."""
    status, answer, target = _http(method, url)
    if status == 307:
        status, answer, _ = _http(method, target, body, {"Content-Type": "application/octet-stream"})
    return status, answer


def _remote(body: bytes) -> str:
    """Return the message of a Hadoop error."""
    try:
        return str(json.loads(body)["RemoteException"]["message"]).splitlines()[0]
    except (ValueError, KeyError):
        return repr(body[:200])
