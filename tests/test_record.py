"""A record decodes to the event that was encoded, whichever encoder wrote it."""

import msgspec
import pytest

from questlog.record import Record, decode_record, encode_record

EVENTS = [b'{"event_type":"hit"}', b' [1, "\xc3\xa9"] ', b"7", b"", b'{"a":\n1}', b"{" * 70]
IDS = ["0191f2a4-7d1c-7cc1-a3f4-0a1b2c3d4e5f", 'a"b\\c', "\x00\x1f\n", "é", "x" * 200]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("id", IDS)
def test_an_encoded_record_decodes_to_the_same_event(id: str, event: bytes) -> None:
    line = encode_record(event, id=id, received_ms=1_790_000_000_123, is_json=event != b"")
    assert b"\n" not in line
    assert msgspec.json.decode(line)["received"] == 1_790_000_000_123
    found = decode_record(line)
    assert found is not None
    assert (found.id, found.client_id, found.sent, found.headers, found.raw()) == (
        id,
        False,
        None,
        {},
        event.strip(b" "),
    )


@pytest.mark.parametrize("event", EVENTS[:3])
@pytest.mark.parametrize("id", IDS)
def test_the_fast_encoder_writes_the_same_bytes(id: str, event: bytes) -> None:
    long = msgspec.json.encode(Record(1, id, 5, event=msgspec.Raw(event)))
    assert encode_record(event, id=id, received_ms=5) == long
