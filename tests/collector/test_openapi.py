"""The collector against its OpenAPI document: schemathesis searches for responses that the document does not allow."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS

from questlog.collector.keys import new_key
from questlog.collector.keys.store import KeyStore
from support.collector_process import Collector

CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
OPERATIONS = 14
KEYED = 9
SLOW = {"/metrics": 5}
"""Examples for slow paths: the figures of `/metrics` come from another process."""
quiet = list(HealthCheck)


@dataclass
class Keyed:
    """A collector that requires keys: a valid one, one with a low rate, and an unknown one."""

    collector: Collector
    right: str
    slow: str
    wrong: str


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    root: Path = tmp_path_factory.mktemp("keyed")
    store = KeyStore(root / ".questlog" / "keys.db")
    right, slow = (store.create(name, (), rate, signed=False)[1] for name, rate in (("game", 0), ("slow", 2)))
    with Collector(root) as collector:
        yield Keyed(collector, right, slow, new_key())


def exercise_all(collector: Collector, examples: int, headers: dict[str, str]) -> dict[str, Counter[int]]:
    """Send each operation requests that the document allows; return how often it responded with which status."""
    schema = schemathesis.openapi.from_dict(collector.request("GET", "/openapi.json").json)
    address = f"http://{collector.host}:{collector.port}"
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    return {each.path: exercise(address, each, SLOW.get(each.path, examples), headers) for each in operations}


def exercise(address: str, operation: Any, examples: int, headers: dict[str, str]) -> Counter[int]:
    checks = [CHECKS.get_one(name) for name in CHECKED]
    statuses: Counter[int] = Counter()

    @given(case=operation.as_strategy())
    @settings(max_examples=examples, deadline=None, suppress_health_check=quiet)
    def check(case: schemathesis.Case) -> None:
        case.headers = {**(case.headers or {}), **headers}
        statuses[case.call_and_validate(address, checks=checks).status_code] += 1

    check()
    return statuses


def test_allowed_requests_get_documented_responses(collector: Collector) -> None:
    responses = exercise_all(collector, 60, {})
    assert [path for path, statuses in responses.items() if not statuses[200]] == [], "every operation succeeded"


def test_a_valid_key_opens_everything(keyed: Keyed) -> None:
    responses = exercise_all(keyed.collector, 15, {"X-Write-Key": keyed.right})
    assert [path for path, statuses in responses.items() if not statuses[200] or statuses[401]] == []


@pytest.mark.parametrize("sent", ["none", "wrong"])
def test_without_a_valid_key_nothing_accepts_events(keyed: Keyed, sent: str) -> None:
    headers: dict[str, str] = {} if sent == "none" else {"X-Write-Key": keyed.wrong}
    responses = exercise_all(keyed.collector, 10, headers)
    closed = [path for path, statuses in responses.items() if set(statuses) == {401}]
    opened = [path for path, statuses in responses.items() if set(statuses) == {200}]
    assert len(closed) == KEYED
    assert sorted(opened) == ["/healthz", "/metrics", "/openapi.json", "/readyz", "/v1/questlog.js"]


def test_an_exceeded_rate_gets_a_documented_response(keyed: Keyed) -> None:
    responses = exercise_all(keyed.collector, 10, {"X-Write-Key": keyed.slow})
    assert sum(statuses[429] for statuses in responses.values()) > 0


@given(body=st.binary(max_size=400), path=st.sampled_from(["events", "track", "identify", "batch"]))
@settings(max_examples=200, deadline=None, suppress_health_check=quiet)
def test_no_bytes_cause_an_internal_error(collector: Collector, body: bytes, path: str) -> None:
    answer = collector.request("POST", f"/v1/{path}", body)
    assert answer.status in (200, 400, 413)
    if answer.status == 200:
        assert answer.json["accepted"] + answer.json["quarantined"] + answer.json["duplicate"] == len(answer.outcomes)
