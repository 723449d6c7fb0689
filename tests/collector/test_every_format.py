"""In every input format: accepted + duplicate + quarantined + rejected = sent, and SQL returns the same counts."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from support.collector_process import Answered, Collector

PLAN = """
[events.join_guild.fields]
guild = { type = "string", max_length = 9 }
size = { type = "int" }
[events.strict]
mode = "reject"
[events.strict.fields]
size = { type = "int", required = true }
[events.identify.fields]
size = { type = "int" }
[events.page.fields]
size = { type = "int" }
"""
TABLES = ("join_guild", "strict", "identify", "page")
OUTCOMES = ("accepted", "duplicate", "quarantined", "rejected")
CALLS = ("track", "identify", "page", "screen", "group", "alias")

names = st.sampled_from(("join_guild", "strict", "identify", "page", "Join Guild", "nobody_knows", ""))
ids = st.one_of(st.none(), st.integers(0, 40).map(lambda n: f"id-{n}"), st.sampled_from(("", "x" * 300, "größe")))
fields = st.fixed_dictionaries(
    {},
    optional={
        "guild": st.sampled_from(("owls", "a name too long", 7, None)),
        "size": st.one_of(st.integers(-9, 9), st.sampled_from(("4", "large", 1.5, 1 << 40, None, [1]))),
        "more": st.sampled_from(("x", {"deep": [1, {}]}, "\ud83d\udc80")),
    },
)


@dataclass(frozen=True)
class Event:
    """An event, which each format writes in its own form. `odd` is sent as it is."""

    name: str
    identity: str | None
    fields: Mapping[str, Any]
    odd: Any = None

    def plain(self) -> Any:
        given = {} if self.identity is None else {"event_id": self.identity}
        return self.odd if self.odd is not None else {"event_type": self.name, **given, **self.fields}

    def segment(self, call: str) -> Any:
        given = {} if self.identity is None else {"messageId": self.identity}
        inner = "traits" if call in ("identify", "group") else "properties"
        whole = {"type": call, "event": self.name, "userId": "ann", **given, inner: dict(self.fields)}
        return self.odd if self.odd is not None else whole

    def cloud(self) -> Any:
        whole = {"specversion": "1.0", "id": self.identity or "", "source": "/t", "type": self.name}
        return self.odd if self.odd is not None else whole | {"data": dict(self.fields)}


fitting = st.fixed_dictionaries({"guild": st.sampled_from(("owls", "ravens")), "size": st.integers(1, 9)})
events = st.one_of(
    st.builds(Event, st.sampled_from(("join_guild", "strict", "identify")), ids, fitting),
    st.builds(Event, names, ids, fields),
    st.builds(Event, names, ids, fields, st.sampled_from((7, "text", [], [[]], True, {}, {"a": "x" * (257 << 10)}))),
)


@dataclass
class Totals:
    """The sums of all receipts."""

    outcomes: Counter[str] = field(default_factory=Counter)
    ids: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in OUTCOMES})

    def add(self, answer: Answered, sent: int) -> None:
        """Add the response to *sent* events: a receipt for each, or a refusal of the whole request with a reason."""
        if answer.status != 200:
            assert answer.status in (400, 413) and answer.json["error"], (answer.status, answer.body)
            return
        receipts = answer.json["receipts"]
        counts = Counter({name: answer.json[name] for name in OUTCOMES})
        assert counts.total() == len(receipts) == sent
        assert +counts == Counter(receipt["outcome"] for receipt in receipts)
        self.outcomes += counts
        for receipt in receipts:
            assert bool(receipt["reason"]) is (receipt["outcome"] in ("quarantined", "rejected"))
            self.ids[receipt["outcome"]][receipt["event_id"]] += 1


Send = Callable[[Collector, Totals, Sequence[Event]], None]


def post(collector: Collector, totals: Totals, body: Any, sent: int, path: str = "/v1/events", **headers: str) -> None:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    totals.add(collector.request("POST", path, text, named), sent)


def as_array(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    post(collector, totals, [each.plain() for each in sent], len(sent))


def as_packed_array(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    body = gzip.compress(json.dumps([each.plain() for each in sent]).encode())
    post(collector, totals, body, len(sent), content_encoding="gzip")


def as_lines(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    lines = "\n".join(json.dumps(each.plain()) for each in sent)
    post(collector, totals, lines + "\n{broken", len(sent) + 1, content_type="application/x-ndjson")


def one_by_one(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    for each in sent:
        if not isinstance(each.odd, list):  # that would be an array of events
            post(collector, totals, each.plain(), 1, content_type="text/plain")


def as_segments_calls(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    for number, each in enumerate(sent):
        call = CALLS[number % len(CALLS)]
        post(collector, totals, each.segment(call), 1, f"/v1/{call}")


def as_segments_batch(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    messages = [each.segment(CALLS[number % len(CALLS)]) for number, each in enumerate(sent)]
    post(collector, totals, {"batch": messages, "sentAt": "2026-01-01T00:00:00Z"}, len(sent), "/v1/batch")


def as_binary_cloudevents(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    for each in sent:
        identity = (each.identity or "").encode("ascii", "ignore").decode()
        post(collector, totals, each.cloud() if each.odd is not None else dict(each.fields), 1,
             content_type="application/json", ce_specversion="1.0", ce_id=identity, ce_source="/b",
             ce_type=each.name)  # fmt: skip


def as_structured_cloudevents(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    for each in sent:
        post(collector, totals, each.cloud(), 1, content_type="application/cloudevents+json")


def as_batched_cloudevents(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    batch = [each.cloud() for each in sent]
    post(collector, totals, batch, len(sent), content_type="application/cloudevents-batch+json")


def as_pictures(collector: Collector, totals: Totals, sent: Sequence[Event]) -> None:
    for each in sent:
        query = {"event_type": each.name} | ({} if each.identity is None else {"event_id": each.identity})
        query |= {name: value for name, value in each.fields.items() if isinstance(value, str | int)}
        query = {name: value.encode("utf-8", "replace") if isinstance(value, str) else value
                 for name, value in query.items()}  # fmt: skip
        answer = collector.request("GET", "/v1/pixel.gif?" + urlencode(query))
        if answer.status == 200:
            totals.outcomes[answer.headers["x-questlog-outcome"].split()[0]] += 1
        else:
            assert (answer.status, each.name) == (400, "")


FORMATS: Sequence[Send] = (
    as_array, as_packed_array, as_lines, one_by_one, as_segments_calls, as_segments_batch,
    as_binary_cloudevents, as_structured_cloudevents, as_batched_cloudevents, as_pictures,
)  # fmt: skip


def test_receipts_add_up_to_what_was_sent_and_sql_agrees(tmp_path: Path) -> None:
    with Collector(tmp_path, plan=PLAN) as collector:
        totals = Totals()

        @given(st.lists(events, min_size=1, max_size=6))
        @example([Event("join_guild", None, {"guild": "owls", "size": 3}), Event("strict", None, {"size": "much"})])
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        def send(sent: Sequence[Event]) -> None:
            for send_as in FORMATS:
                send_as(collector, totals, sent)

        send()
        print(dict(totals.outcomes))
        assert all(totals.outcomes[outcome] for outcome in OUTCOMES), "every outcome occurred"
        assert counted(collector) == +totals.outcomes
        check_tables(collector, totals)
        land = [sys.executable, "-m", "questlog", "-C", str(tmp_path), "land"]
        subprocess.run(land, check=True, capture_output=True, timeout=120)
        check_tables(collector, totals)


def check_tables(collector: Collector, totals: Totals) -> None:
    """Check that each accepted or quarantined id is exactly one row, and that there are no other rows."""
    union = " union all ".join(f"select event_id from {table}" for table in TABLES)
    rows = {
        "accepted": Counter(identity for (identity,) in collector.sql(union)),
        "quarantined": Counter(identity for (identity,) in collector.sql("select event_id from quarantine")),
    }
    for outcome, ids in rows.items():
        assert ids.total() == totals.outcomes[outcome]
        assert set(ids.values()) <= {1}
        assert totals.ids[outcome].keys() <= ids.keys()
    assert totals.ids["duplicate"].keys() <= rows["accepted"].keys() | rows["quarantined"].keys()


def counted(collector: Collector) -> Counter[str]:
    """Return the events counted by `/metrics`, by outcome."""
    outcomes: Counter[str] = Counter()
    for family in text_string_to_metric_families(collector.request("GET", "/metrics").body.decode()):
        for sample in family.samples:
            if sample.name == "questlog_events_total":
                outcomes[sample.labels["outcome"]] += int(sample.value)
    return outcomes
