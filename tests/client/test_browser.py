"""`questlog.js` in real Chromium, sending to a real collector through a web site: each event is in SQL exactly once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.collector_process import Collector
from support.waiting import until
from support.website import SCRIPT, Website

PLAN = """
[events.level_failed.fields]
level = { type = "int", required = true }
[events.identify.fields]
country = "string"
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with Collector(tmp_path_factory.mktemp("arcade"), plan=PLAN) as running:
        yield running


@pytest.fixture
def site(collector: Collector, browser: Any) -> Iterator[Website]:
    """A separate site for each test, because browsers store data per site."""
    site = Website(collector.port)
    browser.get(site.url)
    yield site
    browser.get("about:blank")
    site.close()


def rows(collector: Collector, browser: Any, columns: str = "level") -> list[tuple[Any, ...]]:
    """Return the events of this site's player."""
    player = browser.execute_script("return questlog.player")
    return collector.sql(f"select {columns} from level_failed where player_id = '{player}' order by level")


def track(browser: Any, *levels: Any) -> None:
    browser.execute_script("for (const level of arguments[0]) questlog.track('level_failed', {level})", levels)


def settled(browser: Any) -> bool:
    return bool(browser.execute_script("return questlog.waiting() === 0"))


def sent(site: Website) -> list[int]:
    return [len(json.loads(body)) for body in site.batches]


def test_the_script_is_under_five_kilobytes() -> None:
    assert len(gzip.compress(SCRIPT.read_bytes(), 9)) < 5 * 1024


def test_an_event_carries_player_session_and_sequence(site: Website, browser: Any, collector: Collector) -> None:
    track(browser, 1, 2, 3)
    until(lambda: settled(browser), "the events are sent without a flush")
    events = rows(collector, browser, "level, sequence, session_id, sent_time is not null")
    session = browser.execute_script("return questlog.session")
    assert events == [(1, 1, session, True), (2, 2, session, True), (3, 3, session, True)]
    assert sent(site) == [3]


def test_identify_sets_the_player(site: Website, browser: Any, collector: Collector) -> None:
    browser.execute_script("questlog.identify('ann', {country: 'DE'}); questlog.track('level_failed', {level: 9})")
    until(lambda: settled(browser), "the events are sent")
    assert collector.sql("select country, player_id from identify") == [("DE", "ann")]
    assert rows(collector, browser) == [(9,)]


def test_offline_events_are_sent_when_the_network_returns(site: Website, browser: Any, collector: Collector) -> None:
    browser.set_network_conditions(offline=True, latency=0, throughput=1 << 20)
    track(browser, 1, 2)
    assert not browser.execute_script("return navigator.onLine")
    assert not browser.execute_async_script("questlog.flush().then(arguments[0])")
    track(browser, 3)
    assert (browser.execute_script("return questlog.waiting()"), sent(site)) == (3, [])
    browser.set_network_conditions(offline=False, latency=0, throughput=1 << 30)
    until(lambda: settled(browser), "the events are sent without a flush")
    assert rows(collector, browser, "level, sequence") == [(1, 1), (2, 2), (3, 3)]


def test_the_next_page_sends_waiting_events(site: Website, browser: Any, collector: Collector) -> None:
    site.faults = [(500, {})] * 1000
    track(browser, 1, 2)
    until(lambda: sent(site), "it tries to send")
    browser.get("about:blank")  # the beacon is refused too
    site.faults = []
    browser.get(site.url)
    until(lambda: settled(browser), "the events are sent")
    track(browser, 3)
    until(lambda: settled(browser), "the next event is sent")
    assert rows(collector, browser, "level, sequence") == [(1, 1), (2, 2), (3, 3)]
    assert len(set(rows(collector, browser, "session_id as level"))) == 1, "each tab is a session"


def test_a_page_that_ends_at_once_sends_and_a_return_sends_no_duplicates(
    site: Website, browser: Any, collector: Collector
) -> None:
    player = browser.execute_script("return questlog.player")
    browser.execute_script("questlog.track('level_failed', {level: 7}); location.href = 'about:blank'")
    question = f"select level from level_failed where player_id = '{player}'"
    until(lambda: collector.sql(question) == [(7,)], "the beacon arrives")
    browser.get(site.url)
    until(lambda: settled(browser), "the returning page gets a duplicate receipt")
    assert sent(site) == [1, 1]
    assert collector.sql(question) == [(7,)]


def test_an_event_sent_long_ago_is_not_sent_again(site: Website, browser: Any) -> None:
    """The collector would have forgotten its id."""
    browser.execute_script("""
        questlog.track('level_failed', {level: 7});
        const name = Object.keys(localStorage).find(name => name.startsWith('questlog.event.'));
        localStorage.setItem(name, localStorage.getItem(name) + '\\n' + (Date.now() - 21 * 3600000));
    """)
    until(lambda: settled(browser), "it is dropped")
    assert sent(site) == []


def test_lost_responses_and_retries_count_no_event_twice(site: Website, browser: Any, collector: Collector) -> None:
    site.faults = ["lose the answer", (503, {"Retry-After": "3"}), (200, {}), (401, {})]
    track(browser, 1, 2)
    until(lambda: len(site.batches) == 3, "it waits for Retry-After and sends again")
    assert site.times[2] - site.times[1] >= 3
    until(lambda: len(site.batches) == 4, "a response without receipts settles nothing")
    assert browser.execute_script("return questlog.waiting()") == 2, "a wrong key loses nothing"
    browser.execute_script("dispatchEvent(new Event('online'))")
    until(lambda: settled(browser), "the events are sent")
    assert rows(collector, browser) == [(1,), (2,)]


def test_a_batch_that_is_too_large_is_split(site: Website, browser: Any, collector: Collector) -> None:
    site.faults = [(413, {}), (413, {})]
    track(browser, *range(9))
    until(lambda: settled(browser), "the events are sent")
    assert sent(site)[:3] == [9, 4, 2]
    assert rows(collector, browser) == [(level,) for level in range(9)]


def test_events_that_do_not_fit_the_plan_are_reported(site: Website, browser: Any) -> None:
    browser.execute_script("questlog.onproblem = problem => { window.problem = problem }")
    track(browser, "many")
    until(lambda: settled(browser), "it has its receipt")
    problem = browser.execute_script("return problem")
    assert (problem["outcome"], problem["reason"], problem["event"]["level"]) == ("quarantined", "wrong_type", "many")


def test_tabs_share_a_queue(site: Website, browser: Any, collector: Collector) -> None:
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(site.url)
    track(browser, *range(30))
    second = browser.current_window_handle
    browser.switch_to.window(first)
    track(browser, *range(30, 60))
    until(lambda: settled(browser), "all events are sent")
    assert rows(collector, browser) == [(level,) for level in range(60)]
    assert len(set(rows(collector, browser, "session_id as level"))) == 2
    browser.switch_to.window(second)
    browser.close()
    browser.switch_to.window(first)


def test_a_page_without_storage_still_sends(site: Website, browser: Any, collector: Collector) -> None:
    code = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied') }})"
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": code})
    browser.get(site.url)
    track(browser, 1)
    until(lambda: settled(browser), "the event is sent")
    assert rows(collector, browser) == [(1,)]
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
