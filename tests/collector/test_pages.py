"""The collector's pages: liveness, readiness, the metrics of all workers, and the OpenAPI document."""

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from questlog.collector import pages
from questlog.collector.figures import Figures
from questlog.collector.http import Request, Response
from questlog.collector.metrics import Counts, Metrics
from questlog.collector.pages import MetricsPage
from support.collector_process import Collector
from support.waiting import until


def samples(collector: Collector) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    text = collector.request("GET", "/metrics").body.decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_counts_of_several_workers_are_summed(tmp_path: Path) -> None:
    with Collector(tmp_path, "--workers", "3") as collector:
        for number in range(60):  # a connection each: the kernel spreads them
            collector.send({"event_type": "join_guild", "event_id": str(number % 50)})
        collector.send([], 7, {"event_type": "nobody_knows"})
        collector.send({"event_type": "join_guild"}, {"event_type": "join_guild", "more": "x" * (256 << 10)})
        workers = {path.name for path in (tmp_path / ".questlog" / "log").glob("*.db")}
        assert len(workers) > 1, "only one worker was used, so nothing was summed"
        metrics: dict[tuple[str, ...], float] = {}

        def has_figures() -> bool:  # each worker has its own figures, and renews them when they are old
            metrics.clear()
            metrics.update(samples(collector))
            return ("questlog_ledger_balanced",) in metrics

        until(has_figures, "the project's figures", 60)
        events = {key[1:]: value for key, value in metrics.items() if key[0] == "questlog_events_total"}
        seen = {outcome: sum(v for key, v in events.items() if key[0] == outcome) for outcome, _ in events}
        assert sum(events.values()) == 65
        assert seen["accepted"] + seen.get("duplicate", 0) == 61
        assert (events["quarantined", "unknown_event_type"], events["quarantined", "not_an_object"]) == (1, 2)
        assert events["rejected", "too_large"] == 1
        assert metrics["questlog_requests_total", "/v1/events", "200"] == 62
        assert metrics["questlog_request_duration_seconds_count",] >= 62
        assert 0 < metrics["questlog_append_duration_seconds_count",] <= 62
        assert metrics["questlog_log_bytes",] > 0
        assert metrics["questlog_tail_events", "join_guild"] == 51, "10 of 61 are duplicates"
        assert metrics["questlog_landing_lag_seconds", "join_guild"] > 0
        assert metrics["questlog_ledger_balanced",] == 1


def test_counts_are_served_without_figures_that_take_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(root: Path) -> Figures:
        await asyncio.sleep(3600)  # figures that never come
        return Figures()

    async def ask() -> Response:
        answer = asyncio.get_running_loop().create_future()
        MetricsPage(counts, tmp_path, tmp_path)(Request("GET", b"/metrics", {}, 0, "127.0.0.1"), answer.set_result)
        return await answer

    monkeypatch.setattr(pages, "FIGURES_SECONDS", 0.05)
    monkeypatch.setattr(pages, "read_figures", never)
    counts = Counts(["/v1/events"])
    Metrics(counts).answered("/v1/events", 200, 0.001)
    answer = asyncio.run(ask())
    assert answer.status == 200
    assert b'questlog_requests_total{path="/v1/events",status="200"} 1.0' in answer.body
    assert b"questlog_log_bytes" in answer.body
    assert b"questlog_tail_events" not in answer.body


def test_the_counts_survive_the_death_of_a_worker(tmp_path: Path) -> None:
    with Collector(tmp_path) as collector:
        collector.send({"event_type": "join_guild"})
        children = Path(f"/proc/{collector.process.pid}/task/{collector.process.pid}/children")
        (worker,) = children.read_text().split()
        os.kill(int(worker), 9)
        until(lambda: children.read_text().split() not in ([], [worker]), "another worker")
        until(lambda: collector.send({"event_type": "join_guild"}).status == 200, "it answers")
        assert samples(collector)["questlog_events_total", "accepted", ""] == 2


def test_readiness_probes_the_log(tmp_path: Path) -> None:
    environment = os.environ | {"QUESTLOG_MIN_FREE_MB": "0"}
    with Collector(tmp_path, environment=environment) as collector:
        assert collector.request("GET", "/readyz").status == 200
        assert collector.sql("select count(*) from quarantine") == [(0,)], "a probe is not an event"
        shutil.rmtree(tmp_path / ".questlog" / "log")
        (tmp_path / ".questlog" / "log").write_text("no folder")
        until(lambda: collector.request("GET", "/readyz").status == 503, "the collector is not ready")
        refused = collector.send({"event_type": "join_guild"})
        assert (refused.status, int(refused.headers["retry-after"]) > 0) == (503, True)
        assert collector.request("GET", "/healthz").status == 200
        (tmp_path / ".questlog" / "log").unlink()
        until(lambda: collector.request("GET", "/readyz").status == 200, "the collector is ready again")


def test_a_full_disk_refuses_events_with_503_while_queries_work(tmp_path: Path) -> None:
    with Collector(tmp_path) as collector:
        assert collector.send({"event_type": "join_guild"}).status == 200
    most = shutil.disk_usage(tmp_path).total >> 20
    with Collector(tmp_path, environment=os.environ | {"QUESTLOG_MIN_FREE_MB": str(most)}) as collector:
        answer = collector.send({"event_type": "join_guild"})
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert collector.request("GET", "/readyz").status == 503
        assert collector.request("GET", "/healthz").status == 200
        assert samples(collector)["questlog_requests_total", "/v1/events", "503"] == 1
        assert collector.sql("select count(*) from join_guild") == [(1,)]


def test_every_documented_path_is_served(collector: Collector) -> None:
    document = collector.request("GET", "/openapi.json").json
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        for method in operations:
            assert collector.request(method.upper(), path, "{}" if method == "post" else None).status not in (404, 405)


def test_concurrent_readiness_requests_share_a_probe(collector: Collector) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(collector.request("GET", "/readyz").status)) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 20


def test_the_script_is_served_to_pages_of_any_origin(collector: Collector) -> None:
    answer = collector.request("GET", "/v1/questlog.js", None, {"origin": "https://game.example"})
    assert (answer.status, answer.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert (answer.headers["cross-origin-resource-policy"], b"sendBeacon" in answer.body) == ("cross-origin", True)
    assert "max-age" in answer.headers["cache-control"]
