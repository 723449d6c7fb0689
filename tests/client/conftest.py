"""A client and a collector with scripted answers on a real socket; a real browser."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import questlog
from questlog.client import sender
from support.scripted_collector import KEY, Collector, Make

PLAN = """
[events.level_failed.fields]
level = { type = "int", required = true }
reason = "string"
[events.identify.fields]
country = "string"
[events.strict]
mode = "reject"
[events.strict.fields]
level = { type = "int", required = true }
"""

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")  # fmt: skip


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    (tmp_path / "plan.toml").write_text(PLAN)
    collector = Collector(tmp_path)
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield collector
    collector.shutdown()
    collector.server_close()
    thread.join()


@pytest.fixture
def make(collector: Collector, tmp_path: Path) -> Iterator[Make]:
    made: list[questlog.Client] = []

    def make(url: str = collector.url, key: str = KEY, **options: Any) -> questlog.Client:
        options = {"queue": tmp_path / "queue.db", "flush_seconds": 0.01, **options}
        made.append(questlog.Client(url, key, **options))
        return made[-1]

    yield make
    for client in made:
        client.shutdown(0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(sender, "LONGEST_WAIT", 0.05)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: make lint installs it")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()
