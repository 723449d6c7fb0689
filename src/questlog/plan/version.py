"""A plan's version: a hash of its meaning, independent of how its file is written."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import fields, replace
from typing import Any

from questlog.plan import Envelope, Event, Field, Plan


def with_version(plan: Plan) -> Plan:
    """Return *plan* with the version of its meaning."""
    return replace(plan, version=plan_version(plan))


def plan_version(plan: Plan) -> str:
    """Return twelve hex digits that equal plans share on any machine and in any process.

    The order of keys has no meaning, except that of events with a `match`: the first match counts.
    """
    meaning = {
        "game": [plan.game, plan.description, _plain(plan.dedup_hours)],
        "headers": list(plan.headers),
        "envelope": _envelope(plan.envelope),
        "events": {name: _event(event) for name, event in plan.events.items()},
        "order": [name for name, event in plan.events.items() if event.match],
        "routes": dict(plan.routes),
    }
    text = json.dumps(meaning, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _envelope(envelope: Envelope) -> dict[str, str]:
    """Return the envelope's paths. Later additions are left out at their default: tables name old versions."""
    paths = {field.name: getattr(envelope, field.name) for field in fields(envelope)}
    if paths["sent_time"] == Envelope().sent_time:
        del paths["sent_time"]
    return paths


def _event(event: Event) -> Any:
    match = {path: _plain(value) for path, value in event.match}
    head = [event.table, event.mode, event.description, event.owner]
    return [head, match, {field.name: _field(field) for field in event.fields}]


def _field(field: Field) -> Any:
    options = {f.name: getattr(field, f.name) for f in fields(field) if f.name not in ("name", "type")}
    return [str(field.type), {name: _plain(value) for name, value in options.items()}]


def _plain(value: Any) -> Any:
    """Return a value as JSON, the same for equal values: 1 and 1.0, or one time in two zones."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else ["float", value.hex()]
    if isinstance(value, dt.datetime):
        return ["time", (value.astimezone(dt.UTC) if value.tzinfo else value).isoformat(), value.tzinfo is not None]
    if isinstance(value, dt.date):
        return ["date", value.isoformat()]
    if isinstance(value, dt.time):
        return ["clock", value.isoformat()]
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {"of": {key: _plain(inner) for key, inner in value.items()}}
    return value
