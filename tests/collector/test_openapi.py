"""The collector against its own description: schemathesis looks for a status, a body or a fault nobody promised."""

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
"""Its figures come from another process, so it is asked less often."""
quiet = list(HealthCheck)


@dataclass
class Keyed:
    """A collector that asks for keys: one that it knows, one that ends what it sends soon, and one of nobody."""

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


def ask_everything(collector: Collector, examples: int, headers: dict[str, str]) -> dict[str, Counter[int]]:
    """Ask each operation whatever the served document allows; return how often each answered with which status."""
    schema = schemathesis.openapi.from_dict(collector.request("GET", "/openapi.json").json)
    address = f"http://{collector.host}:{collector.port}"
    operations = [each.ok() for each in schema.get_all_operations()]
    assert len(operations) == OPERATIONS
    return {each.path: ask(address, each, SLOW.get(each.path, examples), headers) for each in operations}


def ask(address: str, operation: Any, examples: int, headers: dict[str, str]) -> Counter[int]:
    checks = [CHECKS.get_one(name) for name in CHECKED]
    statuses: Counter[int] = Counter()

    @given(case=operation.as_strategy())
    @settings(max_examples=examples, deadline=None, suppress_health_check=quiet)
    def check(case: schemathesis.Case) -> None:
        case.headers = {**(case.headers or {}), **headers}
        statuses[case.call_and_validate(address, checks=checks).status_code] += 1

    check()
    return statuses


def test_whatever_the_document_allows_is_answered_as_it_says(collector: Collector) -> None:
    found = ask_everything(collector, 60, {})
    assert [path for path, statuses in found.items() if not statuses[200]] == [], "each was answered, not only refused"


def test_the_right_key_opens_everything(keyed: Keyed) -> None:
    found = ask_everything(keyed.collector, 15, {"X-Write-Key": keyed.right})
    assert [path for path, statuses in found.items() if not statuses[200] or statuses[401]] == []


@pytest.mark.parametrize("sent", ["none", "wrong"])
def test_without_the_right_key_everything_that_takes_events_is_closed(keyed: Keyed, sent: str) -> None:
    headers: dict[str, str] = {} if sent == "none" else {"X-Write-Key": keyed.wrong}
    found = ask_everything(keyed.collector, 10, headers)
    closed = [path for path, statuses in found.items() if set(statuses) == {401}]
    opened = [path for path, statuses in found.items() if set(statuses) == {200}]
    assert len(closed) == KEYED
    assert sorted(opened) == ["/healthz", "/metrics", "/openapi.json", "/readyz", "/v1/questlog.js"]


def test_a_key_that_sends_too_fast_is_answered_as_the_document_says(keyed: Keyed) -> None:
    found = ask_everything(keyed.collector, 10, {"X-Write-Key": keyed.slow})
    assert sum(statuses[429] for statuses in found.values()) > 0


@given(body=st.binary(max_size=400), path=st.sampled_from(["events", "track", "identify", "batch"]))
@settings(max_examples=200, deadline=None, suppress_health_check=quiet)
def test_bytes_of_any_kind_are_no_fault_of_ours(collector: Collector, body: bytes, path: str) -> None:
    answer = collector.request("POST", f"/v1/{path}", body)
    assert answer.status in (200, 400, 413)
    if answer.status == 200:
        assert answer.json["accepted"] + answer.json["quarantined"] + answer.json["duplicate"] == len(answer.outcomes)
