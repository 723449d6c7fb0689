"""Hostile values at every position of an event: none raises, none affects a neighbor, each is counted once."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from questlog.errors import Reason
from questlog.log import Entry
from questlog.plan.columns import QUARANTINE_TABLE, table_schema
from questlog.plan.load import parse_plan
from questlog.record import encode_record
from questlog.shape import Shaped, shape

PLAN = parse_plan(
    """
[game]
name = "hostile"

[events.buy.fields]
word = { type = "string", max_length = 20 }
flag = "bool"
small = { type = "int", min = -5 }
big = "long"
single = "float"
real = "double"
price = "decimal(12,2)"
at = "timestamp"
day = "date"
words = "list<string>"
numbers = "list<list<int>>"
bag = "map<string,double>"
place = "struct<x:int,name:string,prices:list<decimal(6,2)>>"
kind = { enum = ["a", "b"] }

[events.watch]
mode = "observe"

[events.watch.fields]
word = "string"
small = "int"
price = { type = "decimal(12,2)", required = true }
"""
)
GOOD = b'{"event_type":"buy","word":"sword","small":3}'

VALUES: dict[str, bytes] = {
    "null": b"null",
    "NaN": b"NaN",
    "Infinity": b"Infinity",
    "minus Infinity": b"-Infinity",
    "1e400": b"1e400",
    "minus 1e400": b"-1e400",
    "1e-400": b"1e-400",
    "an exponent of 30 digits": b"1e" + b"9" * 30,
    "10^400": b"1" + b"0" * 400,
    "10^5000": b"1" + b"0" * 5000,
    "2^63": b"9223372036854775808",
    "2^64": b"18446744073709551616",
    "minus zero": b"-0",
    "minus zero, real": b"-0.0",
    "3.0": b"3.0",
    "3.5": b"3.5",
    "3e0": b"3e0",
    "leading zero": b"03",
    "plus sign": b"+3",
    "hexadecimal": b"0x10",
    "true": b"true",
    "text of a number": b'"3"',
    "empty text": b'""',
    "NUL escaped": b'"a\\u0000b"',
    "NUL raw": b'"a\x00b"',
    "lone surrogate": b'"\\ud800"',
    "surrogate pair reversed": b'"\\udc00\\ud800"',
    "not UTF-8": b'"\xff\xfe"',
    "UTF-8 of a surrogate": b'"\xed\xa0\x80"',
    "over-long UTF-8": b'"\xc0\xaf"',
    "BOM inside": b'"\xef\xbb\xbfx"',
    "newline raw": b'"a\nb"',
    "bad escape": b'"\\q"',
    "right to left and combining": '"\u202e\u0301\U0001f5e1"'.encode(),
    "10 MB": b'"' + b"x" * 10_000_000 + b'"',
    "empty object": b"{}",
    "empty list": b"[]",
    "equal keys": b'{"a":1,"a":2}',
    "63 deep": b"[" * 63 + b"]" * 63,
    "64 deep": b"[" * 64 + b"]" * 64,
    "200 deep": b"[" * 200 + b"]" * 200,
    "200 deep objects": b'{"a":' * 200 + b"1" + b"}" * 200,
    "100,000 deep": b"[" * 100_000 + b"]" * 100_000,
    "100,000 deep, never closed": b"[" * 100_000,
    "year 10000": b'"10000-01-01T00:00:00Z"',
    "year 0": b'"0000-01-01"',
    "before year 1 in UTC": b'"0001-01-01T00:00:00+14:00"',
    "after year 9999 in UTC": b'"9999-12-31T23:59:59-14:00"',
    "leap second": b'"2016-12-31T23:59:60Z"',
    "24 o'clock": b'"2026-01-01T24:00:00Z"',
    "30 February": b'"2026-02-30"',
    "offset": b'"2026-11-24T10:00:00.123456+05:30"',
    "no zone": b'"2026-11-24 10:00:00.5"',
    "digits of another script": '"２０２６-01-01"'.encode(),
    "exponent as text": b'"1.5e1"',
    "underscore in a number": b'"1_000"',
    "Decimal's own words": b'"sNaN"',
    "comma": b"1,",
    "trailing rubbish": b"1} trailing",
    "comment": b"1 /* */",
    "single quotes": b"'x'",
    "nothing": b"",
}

POSITIONS: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"field {name}": (lambda value, name=name: b'{"event_type":"buy","%s":%s}' % (name.encode(), value))
        for name in (
            "word", "flag", "small", "big", "single", "real", "price", "at", "day", "words", "numbers", "bag",
            "place", "kind", "unknown",
        )
    },
    **{
        name: (lambda value, name=name: b'{"event_type":"buy","%s":%s}' % (name.encode(), value))
        for name in ("event_id", "event_time", "player_id", "session_id", "sequence", "received_time", "plan_version")
    },
    "event_type": lambda value: b'{"event_type":%s}' % value,
    "list element": lambda value: b'{"event_type":"buy","words":["a",%s]}' % value,
    "inner list element": lambda value: b'{"event_type":"buy","numbers":[[1],[%s]]}' % value,
    "map value": lambda value: b'{"event_type":"buy","bag":{"k":%s}}' % value,
    "map key": lambda value: b'{"event_type":"buy","bag":{%s:1}}' % value,
    "struct member": lambda value: b'{"event_type":"buy","place":{"x":%s}}' % value,
    "struct's list": lambda value: b'{"event_type":"buy","place":{"prices":[1.5,%s]}}' % value,
    "struct's unknown member": lambda value: b'{"event_type":"buy","place":{"other":%s}}' % value,
    "a key": lambda value: b'{"event_type":"buy",%s:1}' % value,
    "observed field": lambda value: b'{"event_type":"watch","small":%s,"price":%s}' % (value, value),
    "observed envelope": lambda value: b'{"event_type":"watch","sequence":%s,"player_id":%s}' % (value, value),
    "the whole event": lambda value: value,
    "the event, with a BOM": lambda value: b'\xef\xbb\xbf{"word":%s}' % value,
}  # fmt: skip


def entry(offset: int, event: bytes, **more: Any) -> Entry:
    """Return the log entry that the collector writes for *event*."""
    try:
        msgspec.json.decode(event)
        is_json = True
    except (ValueError, RecursionError):
        is_json = False
    record = encode_record(event, id=f"id-{offset}", received_ms=1_790_000_000_000, is_json=is_json, **more)
    return Entry(0, offset, record, 1_790_000_000_000)


def assert_valid(shaped: Shaped, accepted: int, plan: Any = PLAN) -> None:
    """Assert that every record is counted once and every table is valid under its schema."""
    assert sum(table.num_rows for table in shaped.tables.values()) + shaped.duplicates + shaped.committed == accepted
    for name, table in shaped.tables.items():
        assert table.schema.equals(table_schema(plan, name))
        table.validate(full=True)
        for row in table.to_pylist():
            if name == QUARANTINE_TABLE:
                assert row["reason"] in {reason.value for reason in Reason}


@pytest.mark.parametrize("position", POSITIONS)
def test_a_hostile_value_never_raises_and_never_changes_its_neighbors(position: str) -> None:
    """Good events between the hostile ones become the same rows as alone."""
    events = [POSITIONS[position](value) for value in VALUES.values()]
    mixed = [each for event in events for each in (event, GOOD)]
    shaped = shape([entry(i, event) for i, event in enumerate(mixed)], PLAN)
    assert_valid(shaped, len(mixed))
    alone = shape([entry(1, GOOD)], PLAN).tables["buy"].drop_columns(["event_id"]).to_pylist()[0]
    good = {row.pop("event_id"): row for row in shaped.tables["buy"].to_pylist()}
    assert [good[f"id-{i}"] for i in range(1, len(mixed), 2)] == [alone] * len(events)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_hostile_value_has_the_same_result_alone_and_in_a_batch(position: str) -> None:
    """The result for an event never depends on its batch."""
    entries = [entry(i, POSITIONS[position](value)) for i, value in enumerate(VALUES.values())]
    together = shape(entries, PLAN)
    alone = [shape([each], PLAN) for each in entries]
    for name in {name for shaped in alone for name in shaped.tables}:
        rows = pa.concat_tables([shaped.tables[name] for shaped in alone if name in shaped.tables])
        assert together.tables[name].equals(rows)


@pytest.mark.parametrize("value", VALUES)
def test_the_bytes_as_sent_are_kept(value: str) -> None:
    """`raw_event` of a row or a quarantine row holds the event as it was sent."""
    event = POSITIONS["field unknown"](VALUES[value])
    shaped = shape([entry(0, event)], PLAN)
    (table,) = shaped.tables.values()
    assert table.column("raw_event")[0].as_py() == event.decode("utf-8", "backslashreplace")


def outcome(event: bytes, plan: Any = PLAN) -> tuple[str, str] | dict[str, Any]:
    """Return the row of *event*, or (reason, field) of its quarantine row."""
    shaped = shape([entry(0, event)], plan)
    ((name, table),) = shaped.tables.items()
    row = table.to_pylist()[0]
    return (row["reason"], row["field"]) if name == QUARANTINE_TABLE else row


QUARANTINED = [
    (b'{"event_type":"buy","real":1e400}', Reason.OUT_OF_RANGE, "real"),
    (b'{"event_type":"buy","small":1e400}', Reason.OUT_OF_RANGE, "small"),
    (b'{"event_type":"buy","small":1%s}' % (b"0" * 5000), Reason.OUT_OF_RANGE, "small"),
    (b'{"event_type":"buy","numbers":[[1],[1%s]]}' % (b"0" * 5000), Reason.OUT_OF_RANGE, "numbers[1][0]"),
    (b'{"event_type":"buy","bag":{"k":1%s}}' % (b"0" * 5000), Reason.OUT_OF_RANGE, "bag.k"),
    (b'{"event_type":"buy","price":1%s}' % (b"0" * 400), Reason.OUT_OF_RANGE, "price"),
    (b'{"event_type":"buy","price":1e999999999999999999999}', Reason.OUT_OF_RANGE, "price"),
    (b'{"event_type":"buy","price":9.999}', Reason.WRONG_TYPE, "price"),
    (b'{"event_type":"buy","price":"1_000"}', Reason.WRONG_TYPE, "price"),
    (b'{"event_type":"buy","price":"NaN"}', Reason.WRONG_TYPE, "price"),
    (b'{"event_type":"buy","price":true}', Reason.WRONG_TYPE, "price"),
    (b'{"event_type":"buy","flag":1}', Reason.WRONG_TYPE, "flag"),
    (b'{"event_type":"buy","small":true}', Reason.WRONG_TYPE, "small"),
    (b'{"event_type":"buy","small":3.5}', Reason.WRONG_TYPE, "small"),
    (b'{"event_type":"buy","small":-6}', Reason.OUT_OF_RANGE, "small"),
    (b'{"event_type":"buy","small":2147483648}', Reason.OUT_OF_RANGE, "small"),
    (b'{"event_type":"buy","single":1e39}', Reason.OUT_OF_RANGE, "single"),
    (b'{"event_type":"buy","word":"%s"}' % (b"x" * 21), Reason.TOO_LONG, "word"),
    (b'{"event_type":"buy","kind":"c"}', Reason.NOT_IN_ENUM, "kind"),
    (b'{"event_type":"buy","place":{"x":1,"y":2}}', Reason.WRONG_TYPE, "place.y"),
    (b'{"event_type":"buy","place":{"prices":[1,2.345]}}', Reason.WRONG_TYPE, "place.prices[1]"),
    (b'{"event_type":"buy","at":"10000-01-01T00:00:00Z"}', Reason.WRONG_TYPE, "at"),
    (b'{"event_type":"buy","at":"2016-12-31T23:59:60Z"}', Reason.WRONG_TYPE, "at"),
    (b'{"event_type":"buy","day":"0000-01-01"}', Reason.WRONG_TYPE, "day"),
    ('{"event_type":"buy","day":"２０２６-01-01"}'.encode(), Reason.WRONG_TYPE, "day"),
    (b'{"event_type":"buy","event_time":"0001-01-01T00:00:00+14:00"}', Reason.BAD_ENVELOPE, "event_time"),
    (b'{"event_type":"buy","event_id":5}', Reason.BAD_ENVELOPE, "event_id"),
    (b'{"event_type":"buy","event_id":"%s"}' % (b"x" * 201), Reason.BAD_ENVELOPE, "event_id"),
    (b'{"event_type":"buy","player_id":{"id":1}}', Reason.BAD_ENVELOPE, "player_id"),
    (b'{"event_type":"buy","sequence":9223372036854775808}', Reason.BAD_ENVELOPE, "sequence"),
    (b'{"event_type":"bye"}', Reason.UNKNOWN_EVENT_TYPE, "event_type"),
    (b'{"event_type":7}', Reason.NO_EVENT_TYPE, "event_type"),
    (b"{}", Reason.NO_EVENT_TYPE, "event_type"),
    (b"[1]", Reason.NOT_AN_OBJECT, None),
    (b"[1", Reason.NOT_JSON, None),
    (b"", Reason.NOT_JSON, None),
    (b"\xef\xbb\xbf{}", Reason.NOT_JSON, None),
    (b'{"event_type":"buy","word":"\\ud800"}', Reason.NOT_JSON, None),
    (b'{"event_type":"buy","x":%s}' % (b"[" * 64 + b"]" * 64), Reason.TOO_DEEP, None),
    (b"[" * 100_000, Reason.TOO_DEEP, None),
]


@pytest.mark.parametrize(("event", "reason", "field"), QUARANTINED, ids=lambda value: str(value)[:50])
def test_quarantine_names_a_stable_reason_and_the_path_of_the_field(
    event: bytes, reason: Reason, field: str | None
) -> None:
    """Queries and dashboards rely on the codes, developers on the path."""
    assert outcome(event) == (reason.value, field)


ACCEPTED: list[tuple[str, bytes, Any]] = [
    ("small", b"3.0", 3),
    ("small", b"-0", 0),
    ("big", b"9223372036854775807", 2**63 - 1),
    ("real", b"-0.0", -0.0),
    ("real", b"1e-400", 0.0),
    ("real", b"9007199254740993", 9007199254740992.0),
    ("price", b"0.1", "0.10"),
    ("price", b"1e2", "100.00"),
    ("price", b'"1.5e1"', "15.00"),
    ("price", b"1234567890.12", "1234567890.12"),
    ("price", b"0E-99", "0.00"),
    ("word", b'"a\\u0000b"', "a\x00b"),
    ("at", b'"2026-11-24T10:00:00.123456+05:30"', "2026-11-24 04:30:00.123000"),
    ("at", b'"2026-11-24 10:00:00.5"', "2026-11-24 10:00:00.500000"),
    ("at", b"-1", "1969-12-31 23:59:59.999000"),
    ("at", b'"1969-12-31T23:59:59.9995Z"', "1969-12-31 23:59:59.999000"),
    ("day", b'"9999-12-31"', "9999-12-31"),
    ("bag", b'{"a":1,"a":2}', [("a", 2.0)]),
    ("words", b'["a",null]', ["a", None]),
]


@pytest.mark.parametrize(("field", "value", "expected"), ACCEPTED, ids=lambda value: str(value)[:40])
def test_an_unusual_value_that_fits_is_stored_exactly(field: str, value: bytes, expected: Any) -> None:
    """Lenient acceptance must not change a value."""
    row = outcome(b'{"event_type":"buy","%s":%s}' % (field.encode(), value))
    assert isinstance(row, dict)
    actual = row[field]
    if isinstance(expected, str):
        actual = str(actual)
    assert actual == expected
    assert row["_rescued"] is None
    if isinstance(expected, float):
        assert math.copysign(1, actual) == math.copysign(1, expected)


def test_every_digit_of_a_long_decimal_is_stored() -> None:
    """A double holds 15 to 17 digits; a decimal column must keep the rest."""
    plan = parse_plan('[events.pay.fields]\nsum = "decimal(38,2)"')
    for sent in ("12345678901234567.89", '"12345678901234567.89"', "1234567890123456789012345678901234.5"):
        row = outcome(b'{"event_type":"pay","sum":%s}' % sent.encode(), plan)
        assert isinstance(row, dict)
        assert f"{row['sum']:f}".rstrip("0") == sent.strip('"')


def test_observe_lands_the_event_and_rescues_unfit_values_byte_for_byte() -> None:
    """No value is lost or rewritten, not even one that no Python number can hold."""
    huge = "1" + "0" * 5000
    row = outcome(
        b'{"event_type":"watch","small":%s,"price":1.239,"new":{"b":1.50, "a":[1e400]},"sequence":"x"}' % huge.encode()
    )
    assert isinstance(row, dict)
    assert (row["small"], row["price"], row["sequence"]) == (None, None, None)
    assert row["_rescued"] == f'{{"sequence":"x","small":{huge},"price":1.239,"new":{{"b":1.50, "a":[1e400]}}}}'


@pytest.mark.parametrize("value", [b"\xff\xfe", b"", b"null", b"[]", b"7", b'{"questlog":2,"id":"a"}'])
def test_a_log_entry_that_is_not_a_record_is_quarantined(value: bytes) -> None:
    """Every entry of a log is accounted for, whatever it holds."""
    shaped = shape([Entry(3, 8, value, 5)], PLAN)
    assert_valid(shaped, 1)
    row = shaped.tables[QUARANTINE_TABLE].to_pylist()[0]
    assert (row["event_id"], row["record"]) == ("log-3-8", value)


@pytest.mark.parametrize("field", ["received", "base64", "id", "headers", "event", "client_id"])
def test_a_record_with_an_invalid_member_is_still_one_row(field: str) -> None:
    """A record written by another program may hold anything."""
    for spoiled in (
        b"-1",
        b"1e300",
        b'"!"',
        b"null",
        b"[]",
        b"9" * 30,
        b'{"a":1}',
        b'"\xff"',
        '"é"'.encode(),
        b"[" * 5000,
    ):
        record = b'{"questlog":1,"id":"a","received":1,"event":{"event_type":"b"},"%s":%s}' % (field.encode(), spoiled)
        assert_valid(shape([Entry(0, 0, record, -(2**63))], PLAN), 1)


def test_headers_keep_the_bytes_as_sent() -> None:
    """Header text is stored unchanged; only the plan's headers become columns."""
    nasty = "\\xff\x00\u202e\n"
    shaped = shape([entry(0, GOOD, headers={"Host": nasty, "Cookie": "secret"})], PLAN)
    row = shaped.tables["buy"].to_pylist()[0]
    assert row["host"] == nasty
    assert "secret" not in repr({**row, "record": None})


def test_no_header_or_field_sets_a_server_column() -> None:
    """The server's values are written last, so no event can set them."""
    plan = replace(PLAN, headers=("Host", "Event-Type"))
    event = b'{"event_type":"buy","received_time":1,"plan_version":"x","raw_event":"y","host":"z","_rescued":"r"}'
    shaped = shape([entry(0, event, headers={"Event-Type": "evil", "Host": "real"})], plan)
    row = shaped.tables["buy"].to_pylist()[0]
    assert (row["event_type"], row["host"], row["plan_version"]) == ("buy", "real", plan.version)
    assert row["raw_event"] == event.decode()
    assert msgspec.json.decode(row["_rescued"]) == {
        "received_time": 1, "plan_version": "x", "raw_event": "y", "host": "z", "_rescued": "r",
    }  # fmt: skip
