"""Additions to a plan as text: by themselves, or put in their places in its file, every comment kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from questlog.plan import Event, Field, Plan
from questlog.plan.lines import key_lines
from questlog.plan.load import check_plan
from questlog.plan.render import comment, render_envelope, render_event, render_field, toml_key

Notes = Mapping[str, Mapping[str, str]]
"""Event -> field, or "" for the event -> what to say of it in a comment."""


def additions(fields: Mapping[str, Sequence[Field]], events: Sequence[Event], notes: Notes) -> str:
    """Return new fields of events that exist, and new events, as TOML that is a plan by itself."""
    parts = [
        f"[events.{toml_key(name)}.fields]\n{_field_lines(found, notes.get(name, {}))}"
        for name, found in fields.items()
    ]
    parts += [render_event(event, notes.get(event.name)) for event in events]
    return "\n".join(parts)


def _field_lines(fields: Sequence[Field], notes: Mapping[str, str], prefix: str = "") -> str:
    return "".join(comment(notes, field.name) + prefix + render_field(field) + "\n" for field in fields)


def extended(
    text: str, merged: Plan, fields: Mapping[str, Sequence[Field]], events: Sequence[Event], notes: Notes
) -> str:
    """Return *text* with the additions in it, so that it reads as *merged*; "" if the file is too unusual for that."""
    editor = _Editor(text)
    for name, found in fields.items():
        editor.add_fields(name, found, notes.get(name, {}))
    before = check_plan(text)[0]
    end = ""
    if before is not None and before.envelope != merged.envelope:
        end = "\n" + render_envelope(merged.envelope)
    end += "".join("\n" + render_event(event, notes.get(event.name)) for event in events)
    edited = editor.text() + end
    return edited if check_plan(edited)[0] == merged else ""


class _Editor:
    """Inserts lines at the ends of sections."""

    def __init__(self, text: str) -> None:
        self._lines = text.rstrip("\n").split("\n") if text.strip() else []
        self._where = key_lines(text)
        marked = {line for path, line in self._where.items() if all(isinstance(part, str) for part in path)}
        self._headers = sorted(line for line in marked if self._is_header(line))
        self._inserts: list[tuple[int, str]] = []

    def _is_header(self, line: int) -> bool:
        return self._lines[line - 1].lstrip().startswith("[")

    def _end(self, header: int) -> int:
        """Return after which line the section of a header ends, without the comments of the next one."""
        last = next((line for line in self._headers if line > header), len(self._lines) + 1) - 1
        while last > header and (not self._lines[last - 1].strip() or self._lines[last - 1].lstrip().startswith("#")):
            last -= 1
        return last

    def add_fields(self, event: str, fields: Sequence[Field], notes: Mapping[str, str]) -> None:
        """Put fields behind those the event has."""
        own, inner = self._where.get(("events", event)), self._where.get(("events", event, "fields"))
        if inner is not None and self._is_header(inner):
            self._inserts.append((self._end(inner), _field_lines(fields, notes)))
        elif own is not None and self._is_header(own) and inner is None:
            block = f"\n[events.{toml_key(event)}.fields]\n{_field_lines(fields, notes)}"
            self._inserts.append((self._end(own), block))
        elif own is not None and self._is_header(own):
            self._inserts.append((self._end(own), _field_lines(fields, notes, "fields.")))

    def text(self) -> str:
        """Return the whole text."""
        lines = list(self._lines)
        for line, block in sorted(self._inserts, key=lambda insert: insert[0], reverse=True):
            lines[line:line] = block.rstrip("\n").split("\n")
        return "\n".join(lines) + "\n" if lines else ""
