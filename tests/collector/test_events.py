"""Events over HTTP, from a real client over a real socket to SQL, each with a receipt."""

import gzip
import json
import signal
import socket
from typing import Any

import pytest
import zstandard

from support.collector_process import Collector, read_all

ZSTD = zstandard.compress


def guild(name: str, **more: Any) -> dict[str, Any]:
    return {"event_type": "join_guild", "guild": name, **more}


def rows(collector: Collector, name: str) -> int:
    counts = collector.sql(f"select count(*) from join_guild where guild = '{name}'")
    return int(counts[0][0])


def test_an_event_is_in_the_very_next_query_with_the_id_of_its_receipt(collector: Collector) -> None:
    answer = collector.send(guild("one"))
    assert (answer.status, answer.outcomes) == (200, ["accepted"])
    ids = collector.sql("select event_id from join_guild where guild = 'one'")
    assert [(answer.json["receipts"][0]["event_id"],)] == ids


def test_an_array_gets_receipts_in_the_order_of_its_events(collector: Collector) -> None:
    answer = collector.send(
        guild("array", event_id="array-1"),
        guild("array", event_id="array-1"),
        {"event_type": "purchase_sword", "price": "dear"},
        {"event_type": "nobody_knows"},
        7,
    )
    assert answer.outcomes == ["accepted", "duplicate", "quarantined", "quarantined", "quarantined"]
    reasons = [receipt["reason"] for receipt in answer.json["receipts"]]
    assert reasons == ["", "", "wrong_type", "unknown_event_type", "not_an_object"]
    assert {name: answer.json[name] for name in ("accepted", "duplicate", "quarantined", "rejected")} == {
        "accepted": 1,
        "duplicate": 1,
        "quarantined": 3,
        "rejected": 0,
    }
    assert rows(collector, "array") == 1


@pytest.mark.parametrize("media", ["application/x-ndjson", "application/jsonl", "text/plain", "application/json"])
def test_each_line_is_an_event_and_an_invalid_one_affects_no_other(collector: Collector, media: str) -> None:
    name = f"lines of {media}"
    body = json.dumps(guild(name)) + "\n\n{broken\n" + json.dumps(guild(name)) + "\r\n"
    answer = collector.request("POST", "/v1/events", body, {"content-type": media})
    assert answer.outcomes == ["accepted", "quarantined", "accepted"]
    assert rows(collector, name) == 2


@pytest.mark.parametrize("media", ["", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"])
def test_json_is_read_under_the_media_types_of_simple_clients(collector: Collector, media: str) -> None:
    answer = collector.request(
        "POST", "/v1/events", json.dumps(guild("media " + media)), {"content-type": media} if media else {}
    )
    assert answer.outcomes == ["accepted"]


def test_an_event_over_several_lines_is_one_event(collector: Collector) -> None:
    answer = collector.request("POST", "/v1/events", json.dumps(guild("pretty"), indent=2))
    assert answer.outcomes == ["accepted"]
    assert rows(collector, "pretty") == 1


@pytest.mark.parametrize(
    ("coding", "compress"),
    [
        ("gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:5]) + gzip.compress(body[5:])),
        ("zstd", zstandard.compress),
        ("zstd", lambda body: zstandard.compress(body[:5]) + zstandard.compress(body[5:])),
        ("identity", bytes),
    ],
    ids=["gzip", "gzip of two members", "zstd", "zstd of two frames", "identity"],
)
def test_compressed_bodies_are_decompressed(collector: Collector, coding: str, compress: Any) -> None:
    body = json.dumps([guild(f"{coding} {number}") for number in range(300)]).encode()
    answer = collector.request("POST", "/v1/events", compress(body), {"content-encoding": coding})
    assert (answer.status, answer.json["accepted"]) == (200, 300)


def test_a_retry_gets_a_duplicate_receipt(collector: Collector) -> None:
    first = collector.send(guild("again", event_id="again-1"))
    second = collector.send(guild("again", event_id="again-1"))
    assert (first.outcomes, second.outcomes) == (["accepted"], ["duplicate"])
    assert rows(collector, "again") == 1


def test_a_client_can_ask_for_receipts_of_problems_only(collector: Collector) -> None:
    answer = collector.send(guild("short"), 7, prefer="return=minimal")
    assert (answer.json["accepted"], answer.outcomes) == (1, ["quarantined"])
    assert answer.headers["preference-applied"] == "return=minimal"


def test_kept_headers_become_columns(collector: Collector) -> None:
    collector.send(guild("headers"), user_agent="tests/1")
    assert collector.sql("select user_agent from join_guild where guild = 'headers'") == [("tests/1",)]


@pytest.mark.parametrize(
    ("status", "error", "request_"),
    [
        (404, "not_found", ("POST", "/v2/events", "{}")),
        (405, "method_not_allowed", ("GET", "/v1/events", None)),
        (405, "method_not_allowed", ("POST", "/healthz", "{}")),
        (400, "empty", ("POST", "/v1/events", " \n")),
        (400, "not_json", ("POST", "/v1/events", "[{}")),
        (415, "unsupported_media_type", ("POST", "/v1/events", "a", {"content-type": "image/png"})),
        (415, "unsupported_encoding", ("POST", "/v1/events", "a", {"content-encoding": "br"})),
        (400, "not_decodable", ("POST", "/v1/events", "a", {"content-encoding": "gzip"})),
        (400, "not_decodable", ("POST", "/v1/events", gzip.compress(b"{}" * 99)[:-9], {"content-encoding": "gzip"})),
        (400, "not_decodable", ("POST", "/v1/events", ZSTD(b"1" * 99)[:-3], {"content-encoding": "zstd"})),
        (413, "body_too_large", ("POST", "/v1/events", gzip.compress(b" " * 50_000_000), {"content-encoding": "gzip"})),
        (413, "body_too_large", ("POST", "/v1/events", ZSTD(b" " * 50_000_000), {"content-encoding": "zstd"})),
        (413, "body_too_large", ("POST", "/v1/events", b" " * (6 << 20))),
        (413, "too_many_events", ("POST", "/v1/events", json.dumps([1] * 10_001))),
        (413, "event_too_large", ("POST", "/v1/events", json.dumps({"a": "b" * (256 << 10)}))),
    ],
)  # fmt: skip
def test_a_refused_request_records_nothing_and_gives_the_reason(
    collector: Collector, status: int, error: str, request_: tuple[Any, ...]
) -> None:
    before = collector.sql("select count(*) from quarantine")
    answer = collector.request(*request_)
    assert (status, error) == (answer.status, answer.json["error"])
    assert answer.json["message"]
    assert before == collector.sql("select count(*) from quarantine")


def test_an_oversized_event_is_rejected_and_the_others_are_accepted(collector: Collector) -> None:
    answer = collector.send(guild("large"), guild("large", more="x" * (256 << 10)))
    assert answer.outcomes == ["accepted", "rejected"]
    assert "max_event_bytes" in answer.json["receipts"][1]["detail"]


def test_sigterm_ends_it_with_0_and_keeps_acknowledged_events(tmp_path: Any) -> None:
    with Collector(tmp_path, "--workers", "2") as collector:
        for number in range(20):
            assert collector.send(guild("stop", n=number)).status == 200
        assert collector.stop(signal.SIGTERM) == 0
        assert rows(collector, "stop") == 20


def test_ctrl_c_ends_it_with_0(tmp_path: Any) -> None:
    with Collector(tmp_path) as collector:
        assert collector.stop(signal.SIGINT) == 0


def test_without_a_key_it_listens_on_localhost_only(tmp_path: Any) -> None:
    with pytest.raises(AssertionError, match="questlog key create"):
        Collector(tmp_path, "--host", "0.0.0.0")


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_request_to_upgrade_is_served_as_http_1_1(collector: Collector, framing: str) -> None:
    """Java's HttpClient sends one by default."""
    name = f"upgrade with {framing}"
    body = json.dumps(guild(name)).encode()
    sent = b"content-length: %d\r\n\r\n%b" % (len(body), body)
    if framing == "chunked":
        sent = b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = b"POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings%b\r\nupgrade: h2c\r\n"
    with socket.create_connection((collector.host, collector.port), timeout=20) as client:
        for byte in head % b"" + sent:  # in pieces as small as can be
            client.sendall(bytes([byte]))
        client.sendall(head % b"" + sent + head % b", close" + sent)
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1") == 3
    assert rows(collector, name) == 3
    answers = collector.raw(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n")
    assert answers.startswith(b"HTTP/1.1 200 OK")
    assert collector.raw(b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 4")
