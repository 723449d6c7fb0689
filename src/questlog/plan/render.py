"""A `Plan` as the text of its file: what `load` reads back is the same plan."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from questlog.plan import Envelope, Event, Field, Plan

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def render(plan: Plan) -> str:
    """Return *plan* as TOML; what is as it would be anyhow is left out."""
    parts = []
    game = {"name": plan.game, "description": plan.description or None}
    if plan.dedup_hours != _default(Plan, "dedup_hours"):
        game["dedup_hours"] = plan.dedup_hours  # type: ignore[assignment]
    parts.append(_section("game", game))
    if plan.headers != _default(Plan, "headers"):
        parts.append(_section("headers", {"keep": list(plan.headers)}))
    if plan.envelope != Envelope():
        parts.append(render_envelope(plan.envelope))
    if plan.routes:
        parts.append(_section("routes", plan.routes))
    parts += [render_event(event) for event in plan.events.values()]
    return "\n".join(parts)


def render_envelope(envelope: Envelope) -> str:
    """Return an envelope as TOML."""
    return _section("envelope", changed(envelope))


def render_event(event: Event, notes: Mapping[str, str] | None = None) -> str:
    """Return one event as TOML. *notes* are comments: of the event under "", of its fields under their names."""
    said = {"description": event.description or None, "owner": event.owner or None, "match": dict(event.match) or None}
    if event.table != event.name:
        said["table"] = event.table
    if event.mode != _default(Event, "mode"):
        said["mode"] = event.mode
    text = comment(notes, "") + _section(f"events.{toml_key(event.name)}", said)
    if event.fields:
        lines = [comment(notes, field.name) + render_field(field) + "\n" for field in event.fields]
        text += f"\n[events.{toml_key(event.name)}.fields]\n" + "".join(lines)
    return text


def render_field(field: Field) -> str:
    """Return one field as a line of TOML."""
    options = {key: value for key, value in changed(field).items() if key not in ("name", "type")}
    if not options:
        return f"{toml_key(field.name)} = {toml(str(field.type))}"
    return f"{toml_key(field.name)} = {toml({'type': str(field.type), **options})}"


def comment(notes: Mapping[str, str] | None, key: str) -> str:
    """Return the note of *key* as lines of comment."""
    note = (notes or {}).get(key, "")
    return "".join(f"# {line}\n" for line in note.splitlines())


def _section(name: str, body: Mapping[str, Any]) -> str:
    lines = [f"{toml_key(key)} = {toml(value)}\n" for key, value in body.items() if value is not None]
    return f"[{name}]\n" + "".join(lines)


def changed(item: Any) -> dict[str, Any]:
    """Return what of a dataclass is not its default."""
    values = {field.name: (getattr(item, field.name), field.default) for field in fields(item)}
    return {name: value for name, (value, default) in values.items() if value is not default and value != default}


def _default(kind: type, name: str) -> Any:
    default = kind.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    assert default is not MISSING
    return default


def toml_key(text: str) -> str:
    """Return a key as TOML writes it, quoted if it must be."""
    return text if _BARE.fullmatch(text) else toml(text)


def toml(value: Any) -> str:
    """Return a value on one line of TOML."""
    if isinstance(value, str):
        return '"' + "".join(map(_letter, value)) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.date | dt.datetime | dt.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{toml_key(key)} = {toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return repr(value)


def _letter(letter: str) -> str:
    if letter in _ESCAPED:
        return _ESCAPED[letter]
    if letter.isprintable():
        return letter
    return f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}"
