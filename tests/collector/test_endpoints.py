"""The endpoint table: one row is enough to route, document and count a path."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from questlog.collector.app import Collector
from questlog.collector.endpoints import ENDPOINTS, Endpoint, Pages
from questlog.collector.formats import Sent
from questlog.collector.http import Page, Request, Respond, Response
from questlog.collector.http.commit import Committer, Done
from questlog.collector.keys.authenticator import Authenticator
from questlog.collector.keys.rate import Rates
from questlog.collector.metrics import Counts, Metrics, exposition
from questlog.collector.openapi import document
from questlog.plan import Plan
from questlog.plan.load import parse_plan

PLAN = parse_plan('[events.join_guild.fields]\nguild = "string"')


def read_csv(request: Request, body: bytes, plan: Plan) -> Sent | Response:
    """Read lines of `event_type,guild`."""
    pairs = [line.split(",") for line in body.decode().splitlines()]
    return Sent([b'{"event_type": "%s", "guild": "%s"}' % (name.encode(), guild.encode()) for name, guild in pairs])


CSV = Endpoint(
    "/v1/csv", "POST", "Events as comma-separated values.", read=read_csv, bodies={"text/csv": {"type": "string"}}
)


class MemoryCommitter:
    """Holds records in memory; they count as durable at once."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def submit(self, records: Sequence[bytes], done: Done) -> None:
        self.records += records
        done(None)


def answer_with(status: int) -> Page:
    def page(request: Request, respond: Respond) -> None:
        respond(Response(status))

    return page


def test_a_format_and_a_row_make_an_endpoint(tmp_path: Path) -> None:
    endpoints = (*ENDPOINTS, CSV)
    counts, committer, responses = Counts([each.path for each in endpoints]), MemoryCommitter(), list[Response]()
    collector = Collector(
        lambda: PLAN,
        cast(Committer, committer),
        Authenticator(tmp_path, Rates(), open_without_keys=True),
        Metrics(counts),
        Pages(readyz=answer_with(200), metrics=answer_with(200), openapi=answer_with(200)),
        endpoints,
    )
    request = Request("POST", b"/v1/csv", {}, 15, "127.0.0.1")
    request.body = b"join_guild,owls"
    assert collector.early_response(request) is None
    collector.handle(request, responses.append)
    [response] = responses
    assert (response.status, b'"accepted":1' in response.body, len(committer.records)) == (200, True, 1)
    assert list(document(endpoints)["paths"]["/v1/csv"]) == ["post"]
    assert b'path="/v1/csv",status="200"' in exposition(counts, [])[1]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda each: f"{each.method} {each.path}")
def test_every_row_is_documented_and_counted(endpoint: Endpoint) -> None:
    assert endpoint.summary.endswith("."), "the OpenAPI document needs a sentence"
    assert (endpoint.read is None) != (endpoint.page is None), "a row either takes events or serves a page"
    assert bool(endpoint.bodies) is (endpoint.method == "POST"), "every body needs its media types"
    operation = document()["paths"][endpoint.path][endpoint.method.lower()]
    assert operation["summary"] == endpoint.summary
    assert (endpoint.access != "public") is ("security" in operation)
    assert (endpoint.path, 200) in Counts([each.path for each in ENDPOINTS]).requests


def test_no_path_has_two_rows() -> None:
    paths = [each.path for each in ENDPOINTS]
    assert len(paths) == len(set(paths))
