"""`questlog status` on the cluster profile: this machine's spool, the topic, the tables, and what is in the way."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from questlog.cli.rows import human_bytes, table_text
from questlog.errors import QuestlogError
from questlog.log import merge
from questlog.plan.columns import QUARANTINE_TABLE

if TYPE_CHECKING:
    from questlog.pipeline import ClusterPipeline
    from questlog.query.presto.held import Held, HeldTable

ANSWER_SECONDS = 15.0
"""How long a statement about the tables may take; a server that does not answer at all gets half of it."""
METASTORE_SECONDS = 3.0
QUIET_SECONDS = 60.0
_COLUMNS = ("table", "landed", "quarantined", "files", "bytes", "waiting", "lag", "last commit")


def show_spool(pipeline: ClusterPipeline, as_json: bool) -> None:
    """Print the report; exit with 1 if events cannot get on, or somebody cannot be asked."""
    report = spool_report(pipeline)
    click.echo(json.dumps(report, indent=2) if as_json else _text(report))
    troubles = [report["trouble"], *(report[part].get("trouble") for part in ("topic", "lake"))]
    if any(troubles) or report["balanced"] is False:
        raise SystemExit(1)


def spool_report(pipeline: ClusterPipeline) -> dict[str, Any]:
    """Return the counts of spool, topic and tables, and what the forwarder says. Kafka and Presto are asked at once."""
    from questlog.log.kafka.spool import read_forwarding

    project = pipeline.project
    found = read_forwarding(project.data, project.log_folder)
    accepted, forwarded = sum(pipeline.log.end().values()), sum(found.sent.values())
    trouble = found.trouble
    with ThreadPoolExecutor(2) as both:
        asked = both.submit(_asked, lambda: _lake(pipeline))
        topic = _asked(lambda: _topic(pipeline))
        lake = asked.result()
    return {
        "project": str(project.root),
        "profile": project.settings.profile,
        "plan_version": pipeline.plan.version,
        "spool": {
            "name": found.name,
            "accepted": accepted,
            "forwarded": forwarded,
            "waiting": accepted - forwarded,
            "landed": sum(found.landed.values()),
        },
        "topic": {"name": project.settings.topic, **topic},
        "forwarder": "runs" if found.alive else "stopped",
        "trouble": trouble
        and {"text": trouble.text, "hint": trouble.hint, "seconds": round(time.time() - trouble.since_ms / 1000, 1)},
        "lake": {"schema": project.settings.namespace, **{k: v for k, v in lake.items() if k != "held"}},
        **_held(lake.get("held"), topic),
    }


def _asked(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what was answered, or why there is no answer."""
    try:
        return ask()
    except QuestlogError as error:
        return {"trouble": str(error), "hint": error.hint}


def _topic(pipeline: ClusterPipeline) -> dict[str, Any]:
    """Return how many records the topic has, how many of them are not landed, and how old the oldest of those is."""
    from questlog.log.kafka.forward import landed_offsets
    from questlog.log.kafka.topic import describe_topic, oldest_ms

    settings = pipeline.project.settings
    topic = describe_topic(settings.kafka, settings.topic)
    landed = landed_offsets(settings.kafka, settings.topic)
    places = {p.id: max(landed.get(p.id, 0), p.first) for p in topic.partitions if p.end > p.first}
    waiting = {p.id: p.end - places[p.id] for p in topic.partitions if p.id in places and p.end > places[p.id]}
    oldest = oldest_ms(settings.kafka, settings.topic, {p: places[p] for p in waiting}) if waiting else None
    return {
        "records": sum(p.end for p in topic.partitions),
        "waiting": sum(waiting.values()),
        "lag_seconds": _ago(oldest) if oldest is not None else 0.0,
        "ends": {str(p.id): p.end for p in topic.partitions},
    }


def _lake(pipeline: ClusterPipeline) -> dict[str, Any]:
    """Return what the tables hold; if they cannot be asked, whether it is the metastore that is away."""
    try:
        held = pipeline.engine.held(ANSWER_SECONDS)
    except QuestlogError as error:
        away = _metastore_away(pipeline.project.settings.metastore)
        slow = f"{pipeline.engine.address} takes more than {ANSWER_SECONDS:g} s for an answer"
        said = away or (slow if str(error).startswith("stopped after") else str(error))
        raise QuestlogError(said, hint="is it running? questlog stack status") from error
    if not held.epoch:
        return {"held": held}
    return {"held": held, "lander": held.epoch, "committed_seconds": _ago(held.committed_ms)}


def _metastore_away(addresses: str) -> str:
    """Return a sentence if nobody answers at the metastore's addresses, as far as that can be found out here."""
    trouble = ""
    for address in addresses.split(","):
        at = urlsplit(address.strip())
        try:
            port = at.port or _PORTS.get(at.scheme, 9083)
            with socket.create_connection((at.hostname or "", port), METASTORE_SECONDS) as call:
                call.sendall(_WHAT_IS_THERE if at.scheme == "thrift" else b"GET /v1/config HTTP/1.0\r\n\r\n")
                call.recv(1)  # whatever it says, a server that wants TLS or a password too: it lives
        except OSError as error:
            trouble = trouble or f"the metastore at {address.strip()} does not answer: {error}"
        else:
            return ""
    return trouble


_PORTS = {"http": 80, "https": 443}
_WHAT_IS_THERE = b"\x80\x01\x00\x01\x00\x00\x00\x07getName\x00\x00\x00\x00\x00"
"""A call in Thrift's binary protocol, which every metastore knows: its own name."""


def _ago(moment_ms: int) -> float:
    return round(max(0.0, time.time() - moment_ms / 1000), 1)


def _held(held: Held | None, topic: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows of the report, and the ledger: every record that was read is somewhere, once."""
    if held is None:
        return {"tables": [], "ledger": {}, "half_landed": None, "balanced": None, "quarantine": {}}
    ends = {int(p): end for p, end in topic.get("ends", {}).items()}
    reasons, types = Counter[str](), Counter[str]()
    for each in held.quarantined:
        reasons[each.reason] += each.rows
        types[each.event_type] += each.rows
    counts = {name: held.counts.get(name, 0) for name in ("records", "duplicate", "resent", "lost")}
    ledger = {
        "read": counts["records"], "landed": held.landed, "quarantined": held.quarantined_records,
        "duplicate": counts["duplicate"], "resent": counts["resent"], "lost": counts["lost"],
    }  # fmt: skip
    missing = ledger["read"] - ledger["landed"] - ledger["quarantined"] - ledger["duplicate"]
    ledger["added"] = max(0, -missing)  # promoted or filled in: rows that no lander of this topic counted
    return {
        "tables": [_row(name, table, held, ends, topic.get("lag_seconds")) for name, table in held.tables.items()],
        "ledger": ledger,
        "half_landed": held.half_landed,
        "balanced": missing <= 0 or held.half_landed,
        "quarantine": dict(reasons.most_common()),
        "quarantined_types": dict(types.most_common()),
    }


def _row(name: str, table: HeldTable, held: Held, ends: Mapping[int, int], lag_seconds: float | None) -> dict[str, Any]:
    reach = merge(held.floor, table.position or {})
    waiting = sum(max(0, end - reach.get(p, 0)) for p, end in ends.items()) if ends else None
    landed_into = table.position is not None or not table.rows  # a table of the plan that got nothing yet is one too
    if not landed_into:
        waiting = lag_seconds = None
    return {
        "table": name,
        "landed": table.rows if name != QUARANTINE_TABLE else 0,
        "quarantined": table.rows if name == QUARANTINE_TABLE else 0,
        "files": table.files,
        "bytes": table.bytes,
        "position": {str(p): offset for p, offset in sorted(reach.items())} if landed_into else None,
        "waiting": waiting,
        "lag_seconds": (lag_seconds if waiting else 0.0) if waiting is not None else None,
        "committed_seconds": _ago(table.committed_ms) if table.committed_ms else None,
    }


# -- as text -----------------------------------------------------------------------------------------


def _text(report: dict[str, Any]) -> str:
    spool, topic, trouble = report["spool"], report["topic"], report["trouble"]
    lines = [
        f"spool {spool['name'] or '(nothing forwarded yet)'}: accepted {spool['accepted']:,} = "
        f"forwarded {spool['forwarded']:,} + waiting {spool['waiting']:,}; landed {spool['landed']:,}"
    ]
    if "trouble" in topic:
        lines.append(f"topic {topic['name']}: {topic['trouble']}\n  try: {topic['hint']}")
    else:
        behind = f", the oldest for {topic['lag_seconds']:.1f} s" if topic["waiting"] else ""
        lines.append(
            f"topic {topic['name']}: {topic['records']:,} records, {topic['waiting']:,} wait to be landed{behind}"
        )
    if trouble is not None:
        lines.append(f"the forwarder waits since {trouble['seconds']} s: {trouble['text']}\n  try: {trouble['hint']}")
    elif report["forwarder"] == "stopped":
        lines.append("no forwarder runs: events wait on this machine; questlog up forwards them")
    return "\n".join([*lines, *_tables_text(report)])


def _tables_text(report: dict[str, Any]) -> list[str]:
    lake, ledger, waiting = report["lake"], report["ledger"], report["topic"].get("waiting", 0)
    if "trouble" in lake:
        return [f"tables of {lake['schema']}: {lake['trouble']}\n  try: {lake['hint']}"]
    if not report["tables"]:
        return [f"tables of {lake['schema']}: none yet; questlog up lands what waits"]
    rows: list[list[str | None]] = [
        [t["table"], f"{t['landed']:,}", f"{t['quarantined']:,}", f"{t['files']:,}", human_bytes(t["bytes"]),
         "" if t["waiting"] is None else f"{t['waiting']:,}", _seconds(t["lag_seconds"]),
         f"{_seconds(t['committed_seconds'])} ago" if t["committed_seconds"] is not None else ""]
        for t in report["tables"]
    ]  # fmt: skip
    lines = [table_text(_COLUMNS, rows, [False] + [True] * (len(_COLUMNS) - 1)).rstrip()]
    says = "DOES NOT BALANCE" if not report["balanced"] else "is just landing" if report["half_landed"] else "balances"
    parts = " + ".join(f"{name} {ledger[name]:,}" for name in ("landed", "quarantined", "duplicate"))
    more = [f"{name} {ledger[name]:,}" for name in ("resent", "lost", "added") if ledger[name]]
    lines.append(f"{says}: read {ledger['read']:,} = {parts}" + (f"; besides: {', '.join(more)}" if more else ""))
    if report["quarantine"]:
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in report["quarantine"].items())
        lines.append(f"in quarantine: {reasons}; questlog sql 'select reason, field, raw_event from quarantine'")
    committed = lake.get("committed_seconds", 0.0)
    lines.append(f"lander number {lake.get('lander', 0)} on these tables last committed {_seconds(committed)} ago")
    if waiting and committed > QUIET_SECONDS:
        lines[-1] += "; nothing lands what waits: questlog up runs one, its messages say what is in its way"
    return lines


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
