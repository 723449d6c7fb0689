"""The report of the cluster profile: this machine's spool, the topic, the tables, and what blocks any of them."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from questlog.errors import QuestlogError
from questlog.log import merge
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.report import Blocked, ClusterReport, ClusterTable, LakeCounts, SpoolCounts, TopicCounts

if TYPE_CHECKING:
    from questlog.log import LogReader
    from questlog.log.kafka.spool import Forwarding
    from questlog.plan import Plan
    from questlog.query.presto import PrestoEngine
    from questlog.query.presto.committed import Committed, CommittedTable
    from questlog.settings import Project, Settings

ANSWER_SECONDS = 15.0
"""How long a statement about the tables may take; a server that sends nothing at all gets half of it."""
METASTORE_SECONDS = 3.0
_Counts = TypeVar("_Counts")


def report_cluster(
    project: Project, plan: Plan, log: LogReader, open_engine: Callable[[], PrestoEngine]
) -> ClusterReport:
    """Return the project's report. Kafka and the query engine are asked at the same time.

    If the settings of the engine are invalid, only the tables are blocked.
    """
    from questlog.log.kafka.spool import read_forwarding

    settings = project.settings
    forwarding = read_forwarding(project.data, project.log_folder)
    accepted = sum(log.end().values())
    with ThreadPoolExecutor(2) as pool:
        committed_later = pool.submit(_or_blocked, lambda: _committed(open_engine(), settings.metastore))
        topic = _or_blocked(lambda: _topic(settings))
        committed = committed_later.result()
    return ClusterReport(
        project=project.root,
        profile=settings.profile,
        plan_version=plan.version,
        spool=SpoolCounts(forwarding.name, accepted, sum(forwarding.sent.values()), sum(forwarding.landed.values())),
        topic_name=settings.topic,
        topic=topic,
        forwarding=forwarding.alive,
        forwarder_blocked=_forwarder_blocked(forwarding),
        schema=settings.namespace,
        lake=committed
        if isinstance(committed, Blocked)
        else _lake(committed, topic if isinstance(topic, TopicCounts) else None),
    )


def _or_blocked(read: Callable[[], _Counts]) -> _Counts | Blocked:
    """Return what *read* returns, or why there is no answer."""
    try:
        return read()
    except QuestlogError as error:
        return Blocked(str(error), error.hint)


def _forwarder_blocked(forwarding: Forwarding) -> Blocked | None:
    error = forwarding.error
    if error is None:
        return None
    return Blocked(error.text, error.hint, round(max(0.0, time.time() - error.since_ms / 1000), 1))


def _topic(settings: Settings) -> TopicCounts:
    """Return how many records the topic has, how many of them have not landed, and the age of the oldest of those."""
    from questlog.log.kafka.forward import landed_offsets
    from questlog.log.kafka.topic import describe_topic, oldest_ms

    topic = describe_topic(settings.kafka, settings.topic)
    landed = landed_offsets(settings.kafka, settings.topic)
    starts = {p.id: max(landed.get(p.id, 0), p.first) for p in topic.partitions if p.end > p.first}
    waiting = {p.id: p.end - starts[p.id] for p in topic.partitions if p.id in starts and p.end > starts[p.id]}
    oldest = oldest_ms(settings.kafka, settings.topic, {p: starts[p] for p in waiting}) if waiting else None
    return TopicCounts(
        records=sum(p.end for p in topic.partitions),
        waiting=sum(waiting.values()),
        lag_seconds=_seconds_since(oldest) if oldest is not None else 0.0,
        ends={p.id: p.end for p in topic.partitions},
    )


def _committed(engine: PrestoEngine, metastore: str) -> Committed:
    """Return what the tables hold; if the engine cannot answer, find out whether the metastore is down."""
    try:
        return engine.committed(ANSWER_SECONDS)
    except QuestlogError as error:
        slow = str(error).startswith("stopped after")
        reason = f"{engine.address} takes more than {ANSWER_SECONDS:g} s for an answer" if slow else str(error)
        raise QuestlogError(metastore_down(metastore) or reason, hint="is it running? questlog stack status") from error


def metastore_down(addresses: str) -> str:
    """Return a sentence if none of the metastore's addresses answers, "" if one does."""
    reason = ""
    for address in addresses.split(","):
        url = urlsplit(address.strip())
        try:
            port = url.port or _PORTS.get(url.scheme, 9083)
            with socket.create_connection((url.hostname or "", port), METASTORE_SECONDS) as connection:
                connection.sendall(_GET_NAME if url.scheme == "thrift" else b"GET /v1/config HTTP/1.0\r\n\r\n")
                connection.recv(1)  # any answer means it is up, even one that asks for TLS or a password
        except OSError as error:
            reason = reason or f"the metastore at {address.strip()} does not answer: {error}"
        else:
            return ""
    return reason


_PORTS = {"http": 80, "https": 443}
_GET_NAME = b"\x80\x01\x00\x01\x00\x00\x00\x07getName\x00\x00\x00\x00\x00"
"""`getName` in Thrift's binary protocol: every metastore answers it."""


def _counts(topic: TopicCounts | Blocked) -> TopicCounts | None:
    return topic if isinstance(topic, TopicCounts) else None


def _lake(committed: Committed, topic: TopicCounts | None) -> LakeCounts:
    """Return the tables' counts, and the ledger: every record that was read has one outcome."""
    reasons, types = Counter[str](), Counter[str]()
    for each in committed.quarantined:
        reasons[each.reason] += each.rows
        types[each.event_type] += each.rows
    read, duplicate, resent, lost = (
        committed.counts.get(name, 0) for name in ("records", "duplicate", "resent", "lost")
    )
    missing = read - committed.landed - committed.quarantined_records - duplicate
    return LakeCounts(
        tables=[_table(name, table, committed, topic) for name, table in committed.tables.items()],
        ledger={
            "read": read, "landed": committed.landed, "quarantined": committed.quarantined_records,
            "duplicate": duplicate, "resent": resent, "lost": lost, "added": max(0, -missing),
        },
        half_landed=committed.half_landed,
        balanced=missing <= 0 or committed.half_landed,
        quarantine=dict(reasons.most_common()),
        quarantined_types=dict(types.most_common()),
        lander=committed.epoch or None,
        committed_seconds=_seconds_since(committed.committed_ms) if committed.epoch else None,
    )  # fmt: skip


def _table(name: str, table: CommittedTable, committed: Committed, topic: TopicCounts | None) -> ClusterTable:
    position = merge(committed.checkpoint, table.position or {})
    ends: Mapping[int, int] = topic.ends if topic else {}
    landed_into = table.position is not None or not table.rows  # a new table of the plan has no position yet
    waiting = sum(max(0, end - position.get(p, 0)) for p, end in ends.items()) if ends and landed_into else None
    lag = topic.lag_seconds if topic and waiting else 0.0
    is_quarantine = name == QUARANTINE_TABLE
    return ClusterTable(
        table=name,
        landed=0 if is_quarantine else table.rows,
        quarantined=table.rows if is_quarantine else 0,
        files=table.files,
        bytes=table.bytes,
        position=dict(sorted(position.items())) if landed_into else None,
        waiting=waiting,
        lag_seconds=lag if waiting is not None else None,
        committed_seconds=_seconds_since(table.committed_ms) if table.committed_ms else None,
    )


def _seconds_since(time_ms: int) -> float:
    return round(max(0.0, time.time() - time_ms / 1000), 1)
