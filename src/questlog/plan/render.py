"""Writes a `Plan` as the text of a file, or additions into the text of an existing one."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from questlog.plan import Envelope, Event, Field, Plan
from questlog.plan.lines import key_lines
from questlog.plan.load import check_plan

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def render(plan: Plan) -> str:
    """Return *plan* as TOML that loads as the same plan; defaults are left out."""
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
    """Return one event as TOML. *notes* are comments: the event's under "", its fields' under their names."""
    head = {"description": event.description or None, "owner": event.owner or None, "match": dict(event.match) or None}
    if event.table != event.name:
        head["table"] = event.table
    if event.mode != _default(Event, "mode"):
        head["mode"] = event.mode
    text = comment(notes, "") + _section(f"events.{toml_key(event.name)}", head)
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
    """Return the note of *key* as comment lines."""
    note = (notes or {}).get(key, "")
    return "".join(f"# {line}\n" for line in note.splitlines())


def _section(name: str, body: Mapping[str, Any]) -> str:
    lines = [f"{toml_key(key)} = {toml(value)}\n" for key, value in body.items() if value is not None]
    return f"[{name}]\n" + "".join(lines)


def changed(item: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults."""
    values = {field.name: (getattr(item, field.name), field.default) for field in fields(item)}
    return {name: value for name, (value, default) in values.items() if value is not default and value != default}


def _default(kind: type, name: str) -> Any:
    default = kind.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    assert default is not MISSING
    return default


def toml_key(text: str) -> str:
    """Return a key as TOML writes it, quoted if necessary."""
    return text if _BARE.fullmatch(text) else toml(text)


def toml(value: Any) -> str:
    """Return a value as one line of TOML."""
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


# -- additions ---------------------------------------------------------------------------------------

Notes = Mapping[str, Mapping[str, str]]
"""Event -> field, or "" for the event itself -> its comment."""


def additions(fields: Mapping[str, Sequence[Field]], events: Sequence[Event], notes: Notes) -> str:
    """Return new fields of existing events, and new events, as TOML that is a plan by itself."""
    parts = [
        f"[events.{toml_key(name)}.fields]\n{_field_lines(added, notes.get(name, {}))}"
        for name, added in fields.items()
    ]
    parts += [render_event(event, notes.get(event.name)) for event in events]
    return "\n".join(parts)


def _field_lines(fields: Sequence[Field], notes: Mapping[str, str], prefix: str = "") -> str:
    return "".join(comment(notes, field.name) + prefix + render_field(field) + "\n" for field in fields)


def extended(
    text: str, merged: Plan, fields: Mapping[str, Sequence[Field]], events: Sequence[Event], notes: Notes
) -> str:
    """Return *text* with the additions in place, so that it reads as *merged*; "" if its layout does not allow that."""
    editor = _Editor(text)
    for name, added in fields.items():
        editor.add_fields(name, added, notes.get(name, {}))
    before = check_plan(text)[0]
    end = ""
    if before is not None and before.envelope != merged.envelope:
        end = "\n" + render_envelope(merged.envelope)
    end += "".join("\n" + render_event(event, notes.get(event.name)) for event in events)
    edited = editor.text() + end
    return edited if check_plan(edited)[0] == merged else ""


class _Editor:
    """Inserts lines at the ends of sections and keeps every comment."""

    def __init__(self, text: str) -> None:
        self._lines = text.rstrip("\n").split("\n") if text.strip() else []
        self._where = key_lines(text)
        marked = {line for path, line in self._where.items() if all(isinstance(part, str) for part in path)}
        self._headers = sorted(line for line in marked if self._is_header(line))
        self._inserts: list[tuple[int, str]] = []

    def _is_header(self, line: int) -> bool:
        return self._lines[line - 1].lstrip().startswith("[")

    def _end(self, header: int) -> int:
        """Return the last line of a header's section, without the comments of the next one."""
        last = next((line for line in self._headers if line > header), len(self._lines) + 1) - 1
        while last > header and (not self._lines[last - 1].strip() or self._lines[last - 1].lstrip().startswith("#")):
            last -= 1
        return last

    def add_fields(self, event: str, fields: Sequence[Field], notes: Mapping[str, str]) -> None:
        """Add fields after those that the event has."""
        head, inner = self._where.get(("events", event)), self._where.get(("events", event, "fields"))
        if inner is not None and self._is_header(inner):
            self._inserts.append((self._end(inner), _field_lines(fields, notes)))
        elif head is not None and self._is_header(head) and inner is None:
            block = f"\n[events.{toml_key(event)}.fields]\n{_field_lines(fields, notes)}"
            self._inserts.append((self._end(head), block))
        elif head is not None and self._is_header(head):
            self._inserts.append((self._end(head), _field_lines(fields, notes, "fields.")))

    def text(self) -> str:
        """Return the edited text."""
        lines = list(self._lines)
        for line, block in sorted(self._inserts, key=lambda insert: insert[0], reverse=True):
            lines[line:line] = block.rstrip("\n").split("\n")
        return "\n".join(lines) + "\n" if lines else ""
