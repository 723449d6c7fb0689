"""The record: an accepted event with what the server added, one line of JSON in every log.

A record made by questlog carries `"questlog": 1`. Any other flat JSON object is an old producer's
record (a plain Flask app writing to Kafka): its keys are the event's fields and its headers at once.
"""

from __future__ import annotations

import base64

import msgspec
import uuid_utils

DEPTH_LIMIT = 64


class Record(msgspec.Struct, gc=False, frozen=True, omit_defaults=True, rename={"format": "questlog"}):
    """`event` is the sender's JSON, byte for byte; `broken` is base64 of what was not JSON at all."""

    format: int
    id: str
    received: int
    client_id: bool = False
    headers: dict[str, str] = {}
    event: msgspec.Raw = msgspec.Raw(b"")
    broken: str = ""


_encoder = msgspec.json.Encoder()


def new_id() -> str:
    """Return a time-ordered unique id (UUIDv7) as text."""
    return str(uuid_utils.uuid7())


def encode_record(
    event: bytes,
    *,
    id: str,
    received_ms: int,
    headers: dict[str, str] | None = None,
    client_id: bool = False,
    is_json: bool = True,
) -> bytes:
    """Return one line, no newline inside, that `shape` can turn into a row or a quarantine row."""
    if is_json and b"\n" not in event and b"\r" not in event:
        return _encoder.encode(
            Record(
                format=1,
                id=id,
                received=received_ms,
                client_id=client_id,
                headers=headers or {},
                event=msgspec.Raw(event),
            )
        )
    broken = base64.b64encode(event).decode()
    return _encoder.encode(
        Record(format=1, id=id, received=received_ms, client_id=client_id, headers=headers or {}, broken=broken)
    )
