"""The four times of an event, and the correction of the device's clock."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import questlog
from questlog.log import Entry
from questlog.pipeline import open_pipeline
from questlog.plan.load import parse_plan
from questlog.record import encode_record
from questlog.shape import shape
from questlog.shape.fields import LONGEST_WAIT_MICROS, event_time

NOON = 1_790_000_000_000
HOUR = 3_600_000
PLAN = parse_plan("[events.hit]\n")


def row(body: bytes, sent_ms: int | None = None) -> Mapping[str, Any]:
    record = encode_record(body, id="e", received_ms=NOON, sent_ms=sent_ms)
    (values,) = shape([Entry(0, 0, record, NOON)], PLAN).tables["hit"].to_pylist()
    return {name: _ms(value) for name, value in values.items()}


def _ms(value: Any) -> Any:
    return round((value - datetime(1970, 1, 1)).total_seconds() * 1000) if isinstance(value, datetime) else value


@pytest.mark.parametrize("wrong", [0, 1, -1, 90_000, -HOUR, 400 * 24 * HOUR, -400 * 24 * HOUR])
def test_a_clock_that_is_wrong_by_any_amount_is_corrected(wrong: int) -> None:
    """The event happened five minutes before it was sent, whatever the device's clock says."""
    happened, sent = NOON + wrong - 300_000, NOON + wrong
    values = row(b'{"event_type":"hit","event_time":%d,"sent_time":%d}' % (happened, sent))
    times = ("event_time", "device_time", "sent_time", "received_time", "landed_time", "clock_skew_ms")
    assert [values[name] for name in times] == [NOON - 300_000, happened, sent, NOON, None, -wrong]


def test_an_events_own_sent_time_takes_precedence_over_its_requests() -> None:
    event_first = row(b'{"event_type":"hit","event_time":%d,"sent_time":%d}' % (NOON, NOON + 5), sent_ms=NOON + HOUR)
    assert (event_first["sent_time"], event_first["event_time"]) == (NOON + 5, NOON - 5)
    request = row(b'{"event_type":"hit","event_time":%d}' % NOON, sent_ms=NOON + HOUR)
    assert (request["sent_time"], request["event_time"], request["clock_skew_ms"]) == (NOON + HOUR, NOON - HOUR, -HOUR)


def test_an_impossible_wait_corrects_nothing() -> None:
    """If the clock was set between the event and its sending, the wait is unknown."""
    month = LONGEST_WAIT_MICROS
    assert event_time(5, 4, 1000) == 5, "sent before it happened"
    assert event_time(5, 5 + month, 10 * month) == 9 * month
    assert event_time(5, 6 + month, 10 * month) == 5, "the wait is implausibly long"
    assert event_time(5, None, 1000) == 5
    assert event_time(None, 5, 1000) == event_time(None, None, 1000) == 1000


def test_an_invalid_sent_time_is_quarantined() -> None:
    record = encode_record(b'{"event_type":"hit","sent_time":"soon"}', id="e", received_ms=NOON)
    (values,) = shape([Entry(0, 0, record, NOON)], PLAN).tables["quarantine"].to_pylist()
    assert (values["reason"], values["field"]) == ("bad_envelope", "sent_time")


def test_a_row_has_its_landed_time(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[events.hit]\n")
    pipeline = open_pipeline(tmp_path)
    pipeline.log.append([encode_record(b'{"event_type":"hit"}', id="e", received_ms=NOON)])
    question = "select landed_time is null, landed_time > received_time from hit"
    assert questlog.open(tmp_path).sql(question).rows() == [(True, None)]
    with pipeline.lander() as lander:
        lander.drain()
    assert questlog.open(tmp_path).sql(question).rows() == [(False, True)]
