"""The collector against its own description: schemathesis looks for a status, a body or a fault nobody promised."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import Collector
from schemathesis.checks import CHECKS


def test_whatever_the_document_allows_is_answered_as_it_says(collector: Collector) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{collector.port}/openapi.json")
    checks = [CHECKS.get_one(name) for name in (
        "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance",
    )]  # fmt: skip
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:
        if operation.path == "/metrics":
            continue  # a second each; it takes nothing

        @given(case=operation.as_strategy())
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=checks)

        check()


@given(body=st.binary(max_size=400), path=st.sampled_from(["events", "track", "identify", "batch"]))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_bytes_of_any_kind_are_no_fault_of_ours(collector: Collector, body: bytes, path: str) -> None:
    answer = collector.request("POST", f"/v1/{path}", body)
    assert answer.status in (200, 400, 413)
    if answer.status == 200:
        assert answer.json["accepted"] + answer.json["quarantined"] + answer.json["duplicate"] == len(answer.outcomes)
