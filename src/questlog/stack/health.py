"""Whether a server works: each check does what its clients do, since an open port proves nothing.

A check returns what it did in a few words, or raises.
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
    from questlog.stack.place import Place

HEALTH_TOPIC = "_questlog_health"
_SECONDS = 10.0
"""How long one act may take."""
_JOB_SECONDS = 150.0
"""A task starts two JVMs, which a busy machine may take a minute for."""


def kafka(place: Place) -> str:
    """Produce one record and consume it again."""
    try:
        from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
        from confluent_kafka.admin import AdminClient, NewTopic
    except ImportError as error:
        raise NotInstalled("confluent-kafka is not installed", hint="pip install 'questlog[cluster]'") from error
    servers: dict[str, Any] = {
        "bootstrap.servers": f"127.0.0.1:{place.ports['kafka']}",
        "log_level": 0,
        "error_cb": lambda error: None,  # what goes wrong is raised below, once
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
            raise QuestlogError(f"a record was not taken: {delivered[0][0] if delivered else 'no answer'}")
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
    raise QuestlogError("a record was taken and not given back")


def namenode(place: Place) -> str:
    """List the root folder, out of safe mode."""
    port = place.ports["namenode_http"]
    _, body, _ = _http("GET", f"http://127.0.0.1:{port}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo")
    info = json.loads(body)["beans"][0]
    # with no DataNode there yet, blocks cannot be counted: that is the DataNode's trouble and checked there
    if info["Safemode"] and int(info["TotalBlocks"]) == 0:
        raise QuestlogError(f"in safe mode: {info['Safemode']}")
    status, body, _ = _http("GET", f"http://127.0.0.1:{port}/webhdfs/v1/?op=LISTSTATUS")
    if status != 200:
        raise QuestlogError(f"it refused to list the root folder: {body[:200]!r}")
    return "listed /"


def datanode(place: Place) -> str:
    """Write a file and read it again."""
    path = f"http://127.0.0.1:{place.ports['namenode_http']}/webhdfs/v1/tmp/questlog-health-{uuid.uuid4().hex[:8]}"
    sent = uuid.uuid4().bytes
    status, body = _redirected("PUT", f"{path}?op=CREATE&overwrite=true", sent)
    if status != 201:
        raise QuestlogError(f"a file could not be written: {_remote(body)}")
    status, body = _redirected("GET", f"{path}?op=OPEN")
    _http("DELETE", f"{path}?op=DELETE")
    if status != 200 or body != sent:
        raise QuestlogError(f"a file could not be read again: {_remote(body)}")
    return "wrote and read a file"


def metastore(place: Place) -> str:
    """List the databases."""
    try:
        from hive_metastore.ThriftHiveMetastore import Client
        from thrift.protocol import TBinaryProtocol
        from thrift.Thrift import TException
        from thrift.transport import TSocket, TTransport
    except ImportError as error:
        raise NotInstalled("thrift is not installed", hint="pip install 'questlog[cluster]'") from error
    logging.getLogger("thrift").setLevel(logging.CRITICAL)  # it prints what the caller is told anyway
    socket = TSocket.TSocket("127.0.0.1", place.ports["metastore"])
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


def presto(place: Place) -> str:
    """Run a query on the Iceberg catalog."""
    return _list_schemas(f"http://127.0.0.1:{place.ports['presto']}")


def trino(place: Place) -> str:
    """Run a query on the Iceberg catalog."""
    return _list_schemas(f"trino+http://127.0.0.1:{place.ports['trino']}")


def spark(place: Place) -> str:
    """Let the master list its workers."""
    return f"listed {len(_workers(place))} workers"


def spark_worker(place: Place) -> str:
    """Run a task in Python, unless the worker runs an application's executors anyway."""
    mine = [each for each in _workers(place) if each["port"] == place.ports["spark_worker"]]
    if not mine:
        raise QuestlogError("the master does not know it yet")
    if mine[0]["coresused"]:
        return f"runs executors on {mine[0]['coresused']} of its {mine[0]['cores']} cores"
    master = f"spark://127.0.0.1:{place.ports['spark']}"
    command = [sys.executable, "-m", "questlog.stack.try_spark", master]
    environment = {**os.environ, **spark_environment(place)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as job:
        try:
            said, _ = job.communicate(timeout=_JOB_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise QuestlogError(f"a task took more than {_JOB_SECONDS:g} s") from None
    if said.split()[-1:] != ["42"]:
        reasons = [line for line in said.splitlines() if "Exception" in line or "Error" in line]
        raise QuestlogError(f"a task failed: {(reasons or said.splitlines() or ['it said nothing'])[-1][:300]}")
    return "ran a task in Python"


def _workers(place: Place) -> list[dict[str, Any]]:
    """Return the workers that the master has heard of lately."""
    _, body, _ = _http("GET", f"http://127.0.0.1:{place.ports['spark_ui']}/json/")
    found = json.loads(body)
    if found["status"] != "ALIVE":
        raise QuestlogError(f"the master is {found['status'].lower()}")
    return [worker for worker in found["workers"] if worker["state"] == "ALIVE"]


def _list_schemas(url: str) -> str:
    """List the schemas of the Iceberg catalog of the engine at *url*."""
    from questlog.query.presto.client import PrestoServer, run

    answer = run(PrestoServer(url, "iceberg", ""), "show schemas", 3 * _SECONDS, _SECONDS, retry_seconds=0)
    return f"listed {len(answer.rows)} schemas of the Iceberg catalog"


def _http(
    method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, str]:
    """Return status, body, and where a redirect leads."""
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
    """Follow the NameNode's word to the DataNode that has, or will have, the file."""
    status, answer, target = _http(method, url)
    if status == 307:
        status, answer, _ = _http(method, target, body, {"Content-Type": "application/octet-stream"})
    return status, answer


def _remote(body: bytes) -> str:
    """Return the message in one of Hadoop's errors."""
    try:
        return str(json.loads(body)["RemoteException"]["message"]).splitlines()[0]
    except (ValueError, KeyError):
        return repr(body[:200])
