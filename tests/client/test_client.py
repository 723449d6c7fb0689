"""`questlog.Client` against a real server on a real socket: events are sent and reported, none is duplicated."""

from __future__ import annotations

import datetime as dt
import json
import logging
import time
from itertools import pairwise
from typing import Any

import pytest

from questlog.client import Problem, transport
from questlog.errors import QuestlogError
from support.scripted_collector import KEY, Collector, Make, levels, settled
from support.waiting import until

# -- what is sent ----------------------------------------------------------------------------------


def test_an_event_carries_its_envelope(make: Make, collector: Collector) -> None:
    client = make(session_id="s1")
    client.identify("ann", country="DE")
    noon = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    client.track("level_failed", level=3, reason="spikes", event_id="e2", event_time=noon)
    client.track("level_failed", player_id="bob", session_id="s2", level=4)
    assert client.flush()
    rows = collector.project.sql(
        "select event_type, event_id, event_time::varchar, player_id, session_id, sequence"
        " from events order by sequence"
    ).rows()
    assert [row[2:] for row in rows[1:2]] == [("2026-05-01 10:00:00", "ann", "s1", 2)]
    assert [(row[0], *row[3:]) for row in rows] == [
        ("identify", "ann", "s1", 1), ("level_failed", "ann", "s1", 2), ("level_failed", "bob", "s2", 3),
    ]  # fmt: skip
    assert rows[1][1] == "e2"
    sent = [json.loads(line) for _, body in collector.requests for line in body.split(b"\n")]
    assert all(event["event_time"] <= event["sent_time"] and event["sent_time"].endswith("Z") for event in sent[::2])
    assert settled(client, accepted=3)


def test_events_go_in_packed_batches(make: Make, collector: Collector) -> None:
    client = make(flush_seconds=30)
    for level in range(1200):
        client.track("level_failed", level=level)
    assert client.flush(30)
    assert levels(collector) == list(range(1200))
    assert [headers.get("Content-Encoding") for headers, _ in collector.requests] == ["gzip"] * 3
    assert sum(int(headers["Content-Length"]) for headers, _ in collector.requests) < 100 * 1200


def test_events_are_sent_without_a_flush(make: Make, collector: Collector) -> None:
    client = make()
    client.track("level_failed", level=1)
    until(lambda: settled(client, accepted=1), "the event is sent")


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"sent_time": 1}, "the client sets sent_time itself"), ({"x": object()}, "JSON cannot represent"),
     ({"event_id": ""}, "1 to 200 characters"), ({"event_time": dt.datetime(2026, 1, 1)}, "no time zone"),
     ({"x": "y" * (1 << 20)}, "bytes; the limit is 1048576")],
)  # fmt: skip
def test_an_event_that_cannot_be_sent_is_refused_at_once(make: Make, fields: dict[str, Any], message: str) -> None:
    client = make()
    with pytest.raises(QuestlogError, match=message):
        client.track("level_failed", **fields)
    assert settled(client)


@pytest.mark.parametrize("url", ["events.example.com", "ftp://x", "http://", "http://user:pass@x"])
def test_an_invalid_url_is_refused_at_once(make: Make, url: str) -> None:
    with pytest.raises(QuestlogError, match="not a valid collector URL"):
        make(url=url)


@pytest.mark.parametrize("key", ["", "two words", "line\r\nbreak", "schlüssel"])
def test_an_invalid_key_is_refused_without_being_shown(make: Make, key: str) -> None:
    with pytest.raises(QuestlogError, match="the key is empty or has") as raised:
        make(key=key)
    assert not key or key not in str(raised.value)


def test_no_representation_of_the_client_contains_the_key(make: Make) -> None:
    assert KEY not in repr(make())


# -- what the collector says -----------------------------------------------------------------------


def receipts(*outcomes: tuple[str, str]) -> tuple[int, dict[str, str], bytes]:
    parts = [{"event_id": "x", "outcome": outcome, "reason": reason, "field": "level"} for outcome, reason in outcomes]
    return 200, {}, json.dumps({"receipts": parts}).encode()


def test_quarantined_events_are_reported_and_counted(make: Make, collector: Collector) -> None:
    problems: list[Problem] = []
    collector.script = [
        receipts(("accepted", ""), ("duplicate", ""), ("quarantined", "wrong_type"), ("rejected", "too_long"))
    ]
    client = make(on_problem=problems.append, flush_seconds=30)
    for level in range(4):
        client.track("level_failed", level=level)
    assert client.flush()
    assert settled(client, accepted=1, duplicate=1, quarantined=1, rejected=1)
    assert [(p.event["level"], p.outcome, p.reason, p.field) for p in problems] == [
        (2, "quarantined", "wrong_type", "level"), (3, "rejected", "too_long", "level"),
    ]  # fmt: skip


def test_a_rejected_event_is_logged_without_its_fields(
    make: Make, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    client.track("strict", level="a secret")
    assert client.flush()
    assert settled(client, rejected=1)
    assert "event_type=strict" in caplog.text and "rejected=wrong_type field=level" in caplog.text


def test_a_failing_callback_does_not_stop_sending(make: Make, collector: Collector) -> None:
    def fails(problem: Problem) -> None:
        raise RuntimeError("a bug in the game")

    client = make(on_problem=fails)
    client.track("strict")
    client.track("level_failed", level=1)
    assert client.flush()
    assert settled(client, accepted=1, rejected=1)


def test_a_lost_response_causes_no_duplicate(make: Make, collector: Collector) -> None:
    collector.script = ["lose the answer", "lose the answer"]
    client = make()
    for level in range(5):
        client.track("level_failed", level=level)
    assert client.flush()
    assert len(collector.requests) >= 3
    assert levels(collector) == list(range(5))


def test_a_batch_that_is_too_large_is_split(make: Make, collector: Collector) -> None:
    collector.script = [(413, {}, b"max_events is 4")] * 3
    client = make(flush_seconds=30)
    for level in range(40):
        client.track("level_failed", level=level)
    assert client.flush()
    assert [body.count(b"\n") + 1 for _, body in collector.requests][:5] == [40, 20, 10, 5, 6]
    assert levels(collector) == list(range(40))


def test_an_event_that_is_too_large_is_reported_and_the_others_are_sent(make: Make, collector: Collector) -> None:
    problems: list[Problem] = []
    collector.script = [(413, {}, b"max_event_bytes is 9")] * 2
    client = make(on_problem=problems.append, flush_seconds=30)
    client.track("level_failed", level=1)
    client.track("level_failed", level=2)
    assert client.flush()
    assert [(p.event["level"], p.reason, p.detail) for p in problems] == [(1, "too_large", "max_event_bytes is 9")]
    assert levels(collector) == [2]


@pytest.mark.parametrize(
    ("answer", "message_part"),
    [
        ((401, {}, b"revoked"), "questlog key list"),
        ((403, {}, b"origin"), "questlog key list"),
        ((404, {}, b"<html>"), "at this URL"),
        ((400, {}, b"odd"), "answered 400"),
        ((500, {}, b""), "answered 500"),
        ((301, {"Location": "https://new.example"}, b""), "use https://new.example as the URL"),
        ((200, {}, b"<html>Welcome to the hotel</html>"), "it is not a collector"),
        ((200, {}, b'{"receipts": []}'), "it is not a collector"),
        ((200, {}, b'{"receipts": [{"outcome": "eaten"}]}'), "it is not a collector"),
    ],
)
def test_any_other_response_keeps_the_events_and_sets_the_error(
    make: Make, collector: Collector, caplog: pytest.LogCaptureFixture, answer: Any, message_part: str
) -> None:
    collector.script = [answer] * 10_000
    client = make()
    client.track("level_failed", level=1)
    until(lambda: len(collector.requests) > 3, "it tries again")
    assert message_part in client.error
    assert client.counts()["waiting"] == 1
    messages = [record.message for record in caplog.records if record.name == "questlog.client"]
    assert client.error in messages
    assert all(one != another for one, another in pairwise(messages)), "logged once, not at each try"
    assert KEY not in client.error
    collector.script = []
    assert client.flush()
    assert (client.error, levels(collector)) == ("", [1])


def test_the_error_is_cleared_before_a_flush_returns(
    make: Make, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.script = [(500, {}, b"")]
    client = make()
    queue = client._sender._queue
    settle, seen = queue.settle, []

    def settle_and_record(*arguments: Any) -> None:
        settle(*arguments)
        seen.append(client.error)  # what a thread that waits in flush() can see from here on

    monkeypatch.setattr(queue, "settle", settle_and_record)
    client.track("level_failed", level=1)
    assert client.flush()
    assert seen == [""]


def test_even_a_flush_respects_retry_after(make: Make, collector: Collector) -> None:
    collector.script = [(503, {"Retry-After": "1"}, b"full"), (429, {"Retry-After": "1"}, b"slow down")]
    client = make()
    started = time.monotonic()
    client.track("level_failed", level=1)
    assert client.flush(20)
    assert time.monotonic() - started >= 2
    assert len(collector.requests) == 3
    assert levels(collector) == [1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 7 ", 7.0), ("999999999999", 3600.0), ("-1", None), ("soon", None), (None, None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0)],
)  # fmt: skip
def test_retry_after_is_a_number_or_a_date_and_at_most_an_hour(text: str | None, seconds: float | None) -> None:
    assert transport._seconds(text) == seconds


def test_a_successful_client_logs_nothing(make: Make, collector: Collector, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "questlog.client")
    with make() as client:
        client.track("level_failed", level=1)
    assert caplog.records == []
