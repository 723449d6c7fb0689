"""The tracking plan: a file that declares event types and their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from questlog.types import Type as Type

MODES = ("observe", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of an event."""

    name: str
    type: Type
    required: bool = False
    default: Any = None
    min: Any = None
    max: Any = None
    max_length: int | None = None
    pattern: str | None = None
    enum: tuple[Any, ...] = ()
    aliases: tuple[str, ...] = ()
    pii: bool = False
    deprecated: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """One declared event type. `match` maps paths in the sender's JSON to the values that identify it."""

    name: str
    table: str
    mode: str = "quarantine"
    description: str = ""
    owner: str = ""
    match: tuple[tuple[str, Any], ...] = ()
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """Where the sender's JSON holds what every event has, as dotted paths. If `fields` is "", they are at the top."""

    event_type: str = "event_type"
    event_id: str = "event_id"
    event_time: str = "event_time"
    player_id: str = "player_id"
    session_id: str = "session_id"
    sequence: str = "sequence"
    fields: str = ""
    sent_time: str = "sent_time"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole plan. `version` is a hash of its meaning, so that equal plans have equal versions on any machine.

    `text` is the file it was read from; many texts can have one meaning.
    """

    game: str
    version: str
    headers: tuple[str, ...] = ("Host", "Accept", "User-Agent")
    envelope: Envelope = Envelope()
    events: Mapping[str, Event] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)
    dedup_hours: float = 24.0
    description: str = ""
    text: str = field(default="", compare=False, repr=False)

    @property
    def tables(self) -> dict[str, list[Event]]:
        """Table name -> the events that land in it."""
        tables: dict[str, list[Event]] = {}
        for event in self.events.values():
            tables.setdefault(event.table, []).append(event)
        return tables
