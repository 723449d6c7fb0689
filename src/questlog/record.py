"""The record: an accepted event with what the server added, one line of JSON in every log.

A record written by questlog carries `"questlog": 1`. Any other flat JSON object is an old producer's record, such as
a plain Flask app's in Kafka: its keys are both the event's fields and its headers.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal

import msgspec
import uuid_utils

DEPTH_LIMIT = 64
MAX_ID_LENGTH = 200
LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, the latest that every engine can represent."""

_NOTHING = msgspec.Raw(b"")
Members = dict[str, msgspec.Raw]
"""A JSON object's members by name, each value as it was written: every digit of a number is kept."""
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a sender's bytes raises when they are not JSON of the expected kind."""

Received = Annotated[int, msgspec.Meta(ge=0, le=LAST_MS)]


class Record(msgspec.Struct, gc=False, frozen=True, omit_defaults=True, rename={"format": "questlog"}):
    """One record. `event` is the sender's bytes as they came; `base64` holds those that do not fit into a JSON line.

    `received` and `sent` are milliseconds since 1970, by the server's and the sender's clock.
    """

    format: Literal[1]
    id: str
    received: Received
    client_id: bool = False
    sent: Received | None = None
    headers: dict[str, str] = {}
    event: msgspec.Raw = _NOTHING
    base64: str = ""

    def raw(self) -> bytes:
        """Return the event's bytes exactly as they were sent."""
        return base64.b64decode(self.base64) if self.base64 else bytes(self.event)


class Line(msgspec.Struct, gc=False, frozen=True, rename={"format": "questlog"}):
    """A record as read from a log, with its headers and its event still undecoded."""

    format: Literal[1]
    id: str
    received: Received
    client_id: bool = False
    sent: Received | None = None
    headers: msgspec.Raw = msgspec.Raw(b"{}")
    event: msgspec.Raw = _NOTHING
    base64: str = ""


_encoder = msgspec.json.Encoder()
_headers = msgspec.json.Decoder(dict[str, str])
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
decode_line = msgspec.json.Decoder(Line).decode
"""Returns a record, its headers and event undecoded, or raises one of `NOT_A_RECORD`."""
NOT_A_RECORD = (msgspec.MsgspecError, ValueError, RecursionError)  # base64 raises two kinds of ValueError
"""The errors raised for a line that is not a record."""


def can_be_id(value: object) -> bool:
    """Return whether *value* is valid as an event id chosen by a sender."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH


def new_id() -> str:
    """Return a unique id that sorts by time (UUIDv7), as text."""
    return str(uuid_utils.uuid7())


def encode_record(
    event: bytes,
    *,
    id: str,
    received_ms: int,
    headers: dict[str, str] | None = None,
    client_id: bool = False,
    sent_ms: int | None = None,
    is_json: bool = True,
    is_shallow: bool = False,
) -> bytes:
    """Return one line without newlines, from which `decode_record` returns *event* except for surrounding space.

    Pass *is_shallow* if its depth has been checked already.
    """
    fits = is_json and b"\n" not in event and b"\r" not in event and (is_shallow or not is_too_deep(event))
    if fits and event and not headers and not client_id and sent_ms is None:  # the usual case, in a third of the time
        return b'{"questlog":1,"id":%b,"received":%d,"event":%b}' % (_encoder.encode(id), received_ms, event)
    return _encoder.encode(
        Record(
            format=1,
            id=id,
            received=received_ms,
            client_id=client_id,
            sent=sent_ms,
            headers=headers or {},
            event=msgspec.Raw(event) if fits else _NOTHING,
            base64="" if fits else base64.b64encode(event).decode(),
        )
    )


def decode_record(value: bytes) -> Record | None:
    """Return the record that `encode_record` wrote, or None if *value* is anything else."""
    try:
        line = decode_line(value)
        record = Record(
            1, line.id, line.received, line.client_id, line.sent, decode_headers(line.headers), line.event, line.base64
        )
        record.raw()
    except NOT_A_RECORD:
        return None
    return record


def json_members(raw: bytes | msgspec.Raw | None) -> Members | None:
    """Return a JSON object's members exactly as they were written, or None if *raw* is anything else."""
    try:
        return None if raw is None else _members.decode(raw)
    except NOT_JSON:
        return None


def decode_headers(raw: bytes | msgspec.Raw) -> dict[str, str]:
    """Return the headers of a `Line`; raise one of `NOT_A_RECORD`."""
    return _headers.decode(raw)


_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.S)
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]++")


def is_too_deep(event: bytes) -> bool:
    """Return whether *event* is nested deeper than `DEPTH_LIMIT`, by its brackets alone.

    A parser's own limit would depend on the stack it starts from.
    """
    if event.count(b"{") + event.count(b"[") <= DEPTH_LIMIT:
        return False
    depth = 0
    for bracket in _NOT_BRACKETS.sub(b"", _STRINGS.sub(b"", event)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_LIMIT:
            return True
    return False
