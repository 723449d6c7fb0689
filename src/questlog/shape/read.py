"""A log entry -> the event as it arrived: its bytes, what the server added, and lazy access to its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from questlog.errors import Reason, Reject
from questlog.log import Entry
from questlog.plan import Envelope
from questlog.record import DEPTH_LIMIT, LAST_MS, can_be_id, decode_record, is_too_deep
from questlog.types import number


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record of any producer. `used` are keys of an old producer's event that became headers.

    `received` and `sent` are milliseconds since 1970, by the server's and the sender's clock.
    """

    id: str
    received: int
    client_id: bool
    headers: Mapping[str, str]
    raw: bytes
    used: frozenset[str] = frozenset()
    sent: int | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_items = msgspec.json.Decoder(list[msgspec.Raw])
_any_raw = msgspec.json.Decoder(msgspec.Raw)
_any = msgspec.json.Decoder(float_hook=number)


class Body:
    """A well-formed JSON object whose values are decoded one by one, on access.

    A value that no Python number can hold therefore spoils only its own field.
    """

    __slots__ = ("members",)

    def __init__(self, members: Mapping[str, msgspec.Raw]) -> None:
        self.members = members

    def raw(self, path: str) -> msgspec.Raw | None:
        """Return the bytes at a dotted *path*, or None if it is absent or null."""
        part, dot, rest = path.partition(".")
        member = self.members.get(part)
        if member is None or is_null(member):
            return None
        if not dot:
            return member
        inner = read_members(member)
        return None if inner is None else Body(inner).raw(rest)

    def get(self, path: str) -> Any:
        """Return the value at a dotted *path*, or None."""
        raw = self.raw(path)
        return None if raw is None else read_value(raw)


def is_null(raw: msgspec.Raw) -> bool:
    """Return whether *raw* is JSON's null."""
    return bytes(raw) == b"null"


def read_members(raw: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """Return the members of a JSON object, or None for any other value. The last of equal keys wins."""
    try:
        return _members.decode(raw)
    except msgspec.ValidationError:
        return None


def read_value(raw: msgspec.Raw) -> Any:
    """Return one well-formed value as Python objects; floats and enormous integers become `Number`."""
    try:
        return _any.decode(raw)
    except msgspec.ValidationError:  # an integer of more than 4,300 digits, here or nested
        first = bytes(raw)[:1]
        if first == b"[":
            return [read_value(item) for item in _items.decode(raw)]
        if first == b"{":
            return {key: read_value(member) for key, member in _members.decode(raw).items()}
        return number(bytes(raw).decode())


def read_body(raw: bytes) -> Body | Reject:
    """Return the event's JSON object, or why there is none; the same on every machine and stack."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return Reject(Reason.NOT_JSON, detail=f"not UTF-8 at byte {error.start}")
    if is_too_deep(raw):
        return Reject(Reason.TOO_DEEP, detail=f"nested deeper than {DEPTH_LIMIT}")
    try:
        members = read_members(raw)
        if members is None:
            _any_raw.decode(raw)
    except msgspec.DecodeError as error:
        return Reject(Reason.NOT_JSON, detail=str(error))
    if members is None:
        return Reject(Reason.NOT_AN_OBJECT, detail=f"a JSON {_kind(raw)}")
    return Body(members)


def _kind(raw: bytes) -> str:
    first = raw.lstrip()[:1]
    names = {b"[": "array", b'"': "string", b"t": "boolean", b"f": "boolean", b"n": "null"}
    return names.get(first, "number")


def read_record(entry: Entry, names: Envelope, headers: Mapping[str, str]) -> Arrival:
    """Return the event as it arrived. Any bytes are an event, also an old producer's flat JSON.

    *headers* maps the lower-case names of kept headers to columns; `Arrival.headers` maps columns to text.
    """
    record = decode_record(entry.value)
    if record is not None:
        kept = {headers[name.lower()]: text for name, text in record.headers.items() if name.lower() in headers}
        return Arrival(record.id, record.received, record.client_id, kept, record.raw(), sent=record.sent)
    received = min(max(entry.received_ms, 0), LAST_MS)
    fallback_id = f"log-{entry.partition}-{entry.offset}"
    body = read_body(entry.value)
    if isinstance(body, Reject):
        return Arrival(fallback_id, received, False, {}, entry.value)
    event_id = body.get(names.event_id)
    chosen = can_be_id(event_id)
    texts = {key: read_value(raw) for key, raw in body.members.items() if key.lower() in headers}
    used = {key: text for key, text in texts.items() if isinstance(text, str)}
    kept = {headers[key.lower()]: text for key, text in used.items()}
    return Arrival(event_id if chosen else fallback_id, received, chosen, kept, entry.value, frozenset(used))
