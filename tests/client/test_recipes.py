"""The recipes in `examples/clients`: each starts before its collector, and its event is in SQL exactly once."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.collector_process import Collector
from support.paths import ROOT
from support.ports import free_port
from support.waiting import until

RECIPES = ROOT / "examples" / "clients"


@dataclass(frozen=True)
class Recipe:
    """How a recipe is built and run in a folder that contains only its file."""

    client: str
    file: str
    tool: str
    build: tuple[str, ...]
    run: tuple[str, ...]
    stage: str = ""
    """A stand-in for the engine that the recipe is written for."""


RUN_HERE = (
    Recipe("curl", "send.sh", "curl", (), ("sh", "send.sh")),
    Recipe("go", "questlog.go", "go", ("go", "build", "questlog.go"), ("./questlog",)),
    Recipe("java", "Questlog.java", "javac", ("javac", "-Xlint:all", "-Werror", "Questlog.java"),
           ("java", "-cp", ".", "Questlog")),
    Recipe("unity", "Questlog.cs", "mcs", ("mcs", "-warnaserror", "-out:unity.exe", "Questlog.cs", "unity.cs"),
           ("mono", "unity.exe"), "unity.cs"),
    Recipe("rust", "questlog.rs", "rustc", ("rustc", "-Dwarnings", "questlog.rs"), ("./questlog",)),
)  # fmt: skip


@pytest.mark.parametrize("recipe", RUN_HERE, ids=lambda recipe: recipe.client)
def test_a_recipe_sends_its_event_as_soon_as_its_collector_starts(recipe: Recipe, tmp_path: Path) -> None:
    if not shutil.which(recipe.tool):
        pytest.skip(f"{recipe.tool} is not installed, so {recipe.file} is not run")
    shutil.copyfile(RECIPES / recipe.file, tmp_path / recipe.file)
    if recipe.stage:
        shutil.copyfile(Path(__file__).with_name(recipe.stage), tmp_path / recipe.stage)
    if recipe.build:
        subprocess.run(recipe.build, cwd=tmp_path, check=True, timeout=200)
    port = free_port()
    environment = {**os.environ, "QUESTLOG_URL": f"http://127.0.0.1:{port}", "QUESTLOG_KEY": "any-key"}
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        program = subprocess.Popen(recipe.run, cwd=tmp_path, env=environment, stdout=out, stderr=err)
    try:
        if recipe.client != "curl":  # it retries silently
            until(lambda: "no response" in (tmp_path / "err").read_text(), "the collector is not reachable")
        with Collector(
            tmp_path / "project", "--port", str(port), plan=(RECIPES / "plan.toml").read_text("utf-8")
        ) as collector:
            assert program.wait(60) == 0, (tmp_path / "err").read_text()
            assert '"outcome":"accepted"' in (tmp_path / "out").read_text()
            rows = collector.sql(
                "select client, level, player_id, date_diff('day', event_time, now()) from level_failed"
            )
        assert rows == [(recipe.client, 3, "ann", 0)]
    finally:
        program.kill()
        program.wait()
