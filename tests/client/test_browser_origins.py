"""Pages that send to a collector of another origin, in real Chromium, with questlog.js and with a plain beacon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.collector_process import Collector
from support.waiting import until
from support.website import Website

PLAN = """
[events.level_failed.fields]
level = { type = "int", required = true }
"""


@dataclass
class Elsewhere:
    """A collector that requires keys, a site on another port, and the key of that site's pages."""

    collector: Collector
    site: Website
    key: str

    @property
    def origin(self) -> str:
        return self.site.url.replace("127.0.0.1", "localhost").rstrip("/")

    @property
    def script(self) -> str:
        return f"http://127.0.0.1:{self.collector.port}/v1/questlog.js"

    def levels(self) -> list[int]:
        return [level for (level,) in self.collector.sql("select level from level_failed order by level")]


@pytest.fixture
def elsewhere(browser: Any, tmp_path: Path) -> Iterator[Elsewhere]:
    with Collector(tmp_path, plan=PLAN) as collector:
        site = Website(collector.port)
        site.page = b"<!doctype html><title>game</title>"
        setup = Elsewhere(collector, site, "")
        create = ["-m", "questlog", "-C", str(tmp_path), "key", "create", "web", "--origin", setup.origin, "--json"]
        made = subprocess.run([sys.executable, *create], capture_output=True, text=True, check=True)
        setup.key = json.loads(made.stdout)["key"]
        until(lambda: collector.send({"event_type": "level_failed"}).status == 401, "the collector has the key")
        try:
            yield setup
        finally:
            browser.get("about:blank")
            site.close()


def settled(browser: Any) -> bool:
    return bool(browser.execute_script("return questlog.waiting() === 0"))


def track(browser: Any, level: int) -> None:
    browser.execute_script("questlog.track('level_failed', {level: arguments[0]})", level)


def load(browser: Any, url: str, **attributes: str) -> bool:
    """Add a script to the page; return whether it ran."""
    code = """
        const script = document.createElement('script'), done = arguments[2];
        for (const [name, value] of Object.entries(arguments[1])) script.setAttribute(name, value);
        script.onload = () => done(true);
        script.onerror = () => done(false);
        script.src = arguments[0];
        document.head.append(script);
    """
    return bool(browser.execute_async_script(code, url, attributes))


def test_a_page_of_an_allowed_origin_sends_with_its_key(browser: Any, elsewhere: Elsewhere) -> None:
    """Without a proxy: the collector serves the script, requires the key, and lets this origin read its responses."""
    tag = f'<script src="{elsewhere.script}" data-key="%s"></script>'
    elsewhere.site.page = (tag % "qlk_wrong").encode()
    browser.get(elsewhere.origin)
    track(browser, 5)
    assert not browser.execute_async_script("questlog.flush().then(arguments[0])"), "a wrong key loses nothing"
    elsewhere.site.page = (tag % elsewhere.key).encode()
    browser.get(elsewhere.origin)
    track(browser, 6)
    until(lambda: settled(browser), "the events are sent")
    assert elsewhere.levels() == [5, 6]
    browser.execute_script("questlog.track('level_failed', {level: 7}); location.href = 'about:blank'")
    until(lambda: elsewhere.levels() == [5, 6, 7], "the beacon arrives")


def test_any_page_can_load_the_script_and_allowed_origins_can_with_crossorigin(
    browser: Any, elsewhere: Elsewhere
) -> None:
    """Also in sequence: the browser must not reuse the response cached for the first tag."""
    browser.get(elsewhere.origin)
    assert load(browser, elsewhere.script)
    assert load(browser, elsewhere.script, crossorigin="anonymous")
    assert load(browser, elsewhere.script)
    browser.get(elsewhere.site.url)  # by its number it is another origin
    assert load(browser, elsewhere.script)
    assert not load(browser, elsewhere.script, crossorigin="anonymous")
    browser.get(elsewhere.origin)
    assert load(browser, elsewhere.script, crossorigin="anonymous", **{"data-key": elsewhere.key})
    track(browser, 1)
    until(lambda: settled(browser), "the loaded script sends")
    assert elsewhere.levels() == [1]


@pytest.mark.parametrize("moment", ["now", "pagehide", "unload"])
def test_a_beacon_needs_no_script_but_a_key_and_an_allowed_origin(
    browser: Any, elsewhere: Elsewhere, moment: str
) -> None:
    """Sent as `text/plain`, which needs no preflight: a page that ends has no time for one."""
    collector = elsewhere.collector
    code = """
        const [port, key, level, moment] = arguments;
        const send = () => {
            const bodies = {
                events: {event_type: 'level_failed', level},
                track: {event: 'level_failed', properties: {level: level + 1}},
            };
            for (const [way, body] of Object.entries(bodies))
                navigator.sendBeacon(`http://127.0.0.1:${port}/v1/${way}?key=${key}`, JSON.stringify(body));
        };
        if (moment === 'now') send();
        else {
            addEventListener(moment, send);
            location.href = 'about:blank';
        }
    """
    browser.get(elsewhere.site.url)  # another origin, so it is refused
    browser.execute_script(code, collector.port, elsewhere.key, 7, moment)
    browser.get(elsewhere.origin)
    browser.execute_script(code, collector.port, elsewhere.key, 1, moment)
    until(lambda: len(elsewhere.levels()) == 2, "both beacons arrive")
    browser.get(elsewhere.origin)
    browser.execute_script(code, collector.port, "qlk_wrong", 9, "now")
    figure = 'questlog_requests_total{path="/v1/track",status="%d"} '
    until(lambda: figure % 401 in metrics(elsewhere), "the wrong key is refused", 60)
    assert figure % 403 in metrics(elsewhere), "and before it the wrong origin"
    assert elsewhere.levels() == [1, 2]


def metrics(elsewhere: Elsewhere) -> str:
    return elsewhere.collector.request("GET", "/metrics", None, {"x-write-key": elsewhere.key}).body.decode()
