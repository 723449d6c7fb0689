"""Input formats: Segment's own SDK, CloudEvents as their own library writes them, and the e-mail pixel."""

import json
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from segment.analytics.client import Client

from support.collector_process import Collector

PLAN = """
[game]
name = "swords"

[events.join_guild.fields]
guild = { type = "string" }
size = { type = "int" }
open = { type = "bool" }

[events.identify.fields]
plan = { type = "string" }

[events.page.fields]
title = { type = "string" }

[events.screen.fields]
title = { type = "string" }

[events.group.fields]
group_id = { type = "string" }

[events.alias.fields]
previous_id = { type = "string" }
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Collector(tmp_path_factory.mktemp("ways"), plan=PLAN) as running:
        yield running


@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
def test_the_segment_sdk_needs_only_another_host(collector: Collector, gzip: bool) -> None:
    mark = f"segment-{gzip}"
    faults: list[Any] = []
    sdk = Client("a-write-key", host=f"http://127.0.0.1:{collector.port}", gzip=gzip,
                 on_error=lambda *error: faults.append(error))  # fmt: skip
    sdk.track(mark, "Join Guild", {"guild": mark, "size": 7})
    sdk.identify(mark, {"plan": "gold"})
    sdk.page(mark, "shop", "swords", {"title": "Swords"})
    sdk.screen(mark, "shop", "swords", {"title": "Swords"})
    sdk.group(mark, "owls", {"name": "Owls"})
    sdk.alias("before", mark)
    sdk.flush()
    sdk.shutdown()
    assert faults == []
    assert collector.sql(f"select player_id, size from join_guild where guild = '{mark}'") == [(mark, 7)]
    assert collector.sql(f"select plan from identify where player_id = '{mark}'") == [("gold",)]
    assert collector.sql(f"select title from page where player_id = '{mark}'") == [("Swords",)]
    assert collector.sql(f"select title from screen where player_id = '{mark}'") == [("Swords",)]
    assert collector.sql(f"select group_id from \"group\" where player_id = '{mark}'") == [("owls",)]
    assert collector.sql(f"select previous_id from alias where player_id = '{mark}'") == [("before",)]


@pytest.mark.parametrize("call", ["track", "identify", "page", "screen", "group", "alias"])
def test_each_segment_call_has_a_path_and_can_be_retried(collector: Collector, call: str) -> None:
    message = {"event": "joinGuild", "messageId": f"one {call}", "userId": "u", "sentAt": "2026-01-01T00:00:00Z"}
    first = collector.send(message, path=f"/v1/{call}")
    second = collector.send(message, path=f"/v1/{call}")
    assert (first.status, first.outcomes, second.outcomes) == (200, ["accepted"], ["duplicate"])
    assert first.json["receipts"][0]["event_id"] == f"one {call}"
    table = {"track": "join_guild", "group": '"group"'}.get(call, call)
    assert collector.sql(f"select player_id from {table} where event_id = 'one {call}'") == [("u",)]


def test_segments_browser_sdk_sends_beacons_as_text(collector: Collector) -> None:
    body = json.dumps({"event": "join_guild", "anonymousId": "nobody", "properties": {"guild": "beacon"}})
    answer = collector.request("POST", "/v1/track", body, {"content-type": "text/plain;charset=UTF-8"})
    assert answer.outcomes == ["accepted"]
    assert collector.sql("select player_id from join_guild where guild = 'beacon'") == [("nobody",)]


def test_a_batch_with_an_invalid_message_gets_a_receipt_for_each(collector: Collector) -> None:
    good = {"type": "track", "event": "join_guild", "properties": {"guild": "batch"}}
    secret = {"type": "no call", "writeKey": "hush-hush", "properties": {}}
    answer = collector.send({"batch": [good, 7, secret, {"type": "track"}], "writeKey": "hush-hush"}, path="/v1/batch")
    assert answer.outcomes == ["accepted", "quarantined", "quarantined", "quarantined"]
    assert collector.sql("select count(*) from join_guild where guild = 'batch'") == [(1,)]
    assert collector.sql("select count(*) from quarantine where raw_event like '%hush-hush%'") == [(0,)]


@pytest.mark.parametrize("body", ['{"batch": 7}', "{}", "[]", "{", '{"batch": [}'])
def test_an_invalid_batch_is_refused(collector: Collector, body: str) -> None:
    assert collector.request("POST", "/v1/batch", body).status == 400


def cloud(identity: str, guild: str, **more: Any) -> CloudEvent:
    attributes = {"id": identity, "source": "/tests", "type": "com.example.join_guild", "specversion": "1.0"}
    return CloudEvent(attributes=attributes | more, data={"guild": guild, "size": 3})


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_cloudevents_sent_by_their_own_library(collector: Collector, mode: str) -> None:
    event = cloud(f"c-{mode}", f"cloud {mode}", datacontenttype="application/json", subject="größe")
    message = to_binary_event(event) if mode == "binary" else to_structured_event(event)
    answers = [collector.request("POST", "/v1/events", message.body, dict(message.headers)) for _ in range(2)]
    assert [answer.outcomes for answer in answers] == [["accepted"], ["duplicate"]]
    events = collector.sql(f"select event_id, size from join_guild where guild = 'cloud {mode}'")
    assert events == [(f"/tests#c-{mode}", 3)]


def test_a_batch_of_cloudevents(collector: Collector) -> None:
    events = [json.loads(to_structured_event(cloud(f"b-{n}", "cloud batch")).body) for n in range(3)]
    events += [{"specversion": "0.3", "id": "x", "source": "y", "type": "join_guild"}, 7]
    answer = collector.request(
        "POST", "/v1/events", json.dumps(events), {"content-type": "application/cloudevents-batch+json"}
    )
    assert answer.outcomes == ["accepted"] * 3 + ["quarantined"] * 2
    assert collector.sql("select count(*) from join_guild where guild = 'cloud batch'") == [(3,)]


def test_the_pixel_records_an_event(collector: Collector) -> None:
    answer = collector.request("GET", "/v1/pixel.gif?event_type=join_guild&guild=mail%20&size=4&open=true&event_id=p")
    assert (answer.status, answer.headers["content-type"], answer.body[:6]) == (200, "image/gif", b"GIF89a")
    assert (answer.headers["cache-control"], answer.headers["x-questlog-outcome"]) == ("no-store", "accepted")
    assert collector.sql("select size, open from join_guild where guild = 'mail '") == [(4, True)]
    again = collector.request("GET", "/v1/pixel.gif?event_type=join_guild&event_id=p")
    assert again.headers["x-questlog-outcome"] == "duplicate"
    assert collector.request("GET", "/v1/pixel.gif?guild=owls").status == 400
