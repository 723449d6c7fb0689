"""The built wheel in an environment with only its declared dependencies: no extras, no sources."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from support.paths import ROOT

Bare = Path
FROM_EXTRAS = ("flask", "confluent_kafka", "pyspark", "sqlglot", "psutil", "thrift")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Return the `questlog` command of an environment with only the wheel installed."""
    folder = tmp_path_factory.mktemp("bare")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True)
    [wheel] = folder.glob("questlog-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    for name in sorted(declared(metadata.distribution("questlog"), frozenset())):
        link(metadata.distribution(name), packages)
    return folder / "env" / "bin" / "questlog"


def declared(distribution: metadata.Distribution, extras: frozenset[str]) -> set[str]:
    """Return the dependencies of *found*, and their dependencies."""
    names: set[str] = set()
    waiting = [(distribution, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        each, wanted = waiting.pop()
        for requirement in map(Requirement, each.requires or ()):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in wanted or {""}):
                continue
            name = canonicalize_name(requirement.name)
            step = (name, frozenset(requirement.extras) | {""})
            if step not in seen:
                seen.add(step)
                names.add(name)
                waiting.append((metadata.distribution(name), step[1]))
    return names


def link(distribution: metadata.Distribution, packages: Path) -> None:
    """Copy an installed distribution into *packages*."""
    for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
        if not (packages / top).exists():
            (packages / top).symlink_to(Path(str(distribution.locate_file(top))).resolve())


def run(bare: Bare, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [bare, *arguments], cwd=folder, capture_output=True, text=True, timeout=180, env={"PATH": os.environ["PATH"]}
    )


@pytest.fixture
def collector(bare: Bare, tmp_path: Path) -> Iterator[str]:
    """Start a project and its collector as a new user would; yield the address that it prints."""
    assert run(bare, tmp_path, "init").returncode == 0
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen([bare, "collect", "--port", "0"], cwd=tmp_path, stdout=output, stderr=output)
    try:
        while b"no write keys configured" not in (text := (tmp_path / "output").read_bytes()):
            assert process.poll() is None, text.decode()
        yield text.decode().split(" on ")[1].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_bare_install_has_no_package_of_an_extra(bare: Bare) -> None:
    for module in FROM_EXTRAS:
        ran = subprocess.run([bare.parent / "python", "-c", f"import {module}"], capture_output=True)
        assert b"ModuleNotFoundError" in ran.stderr


def test_a_bare_install_collects_lands_and_queries(bare: Bare, tmp_path: Path, collector: str) -> None:
    event = json.dumps({"event_type": "purchase", "item": "sword"}).encode()
    answer: Any = json.loads(urllib.request.urlopen(f"{collector}/v1/events", event, timeout=20).read())
    assert answer["accepted"] == 1, answer
    assert b"sendBeacon" in urllib.request.urlopen(f"{collector}/v1/questlog.js", timeout=20).read()
    assert urllib.request.urlopen(f"{collector}/readyz", timeout=20).status == 200
    assert b"questlog_tail_events" in urllib.request.urlopen(f"{collector}/metrics", timeout=180).read()
    for command in ("land", "doctor"):
        ran = run(bare, tmp_path, command)
        assert ran.returncode == 0, (command, ran.stderr)
    ran = run(bare, tmp_path, "sql", "--format", "csv", "select item from purchases")
    assert (ran.returncode, ran.stdout.split()) == (0, ["item", "sword"]), ran.stderr


@pytest.mark.parametrize(("command", "extra"), [(("demo",), "flask"), (("sql", "--check", "select 1"), "cluster")])
def test_a_command_that_needs_an_extra_names_it(
    bare: Bare, tmp_path: Path, command: tuple[str, ...], extra: str
) -> None:
    ran = run(bare, tmp_path, *command)
    assert ran.returncode != 0
    assert f"questlog[{extra}]" in ran.stderr and "Traceback" not in ran.stderr
