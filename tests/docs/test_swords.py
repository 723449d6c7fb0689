"""The swords game answers as it did before it was instrumented, and instrumenting it takes at most three lines."""

import difflib
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest
from flask import Flask

import questlog
from support.paths import SWORDS

PLAIN = """
from flask import Flask

app = Flask(__name__)


@app.route("/")
def default_response() -> str:
    return "This is the default response!\\n"


@app.route("/purchase_a_sword")
def purchase_a_sword() -> str:
    return "Sword Purchased!\\n"


@app.route("/join_guild")
def join_guild() -> str:
    return "Guild joined!\\n"
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    for name in ("game.py", "plan.toml"):
        shutil.copy(SWORDS / name, tmp_path)
    spec = importlib.util.spec_from_file_location("swords_game", tmp_path / "game.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "swords_game", module)  # Flask asks there for the app's folder
    spec.loader.exec_module(module)
    app: Flask = module.app
    return app


def test_instrumenting_a_game_takes_at_most_three_lines() -> None:
    _, _, game = (SWORDS / "game.py").read_text("utf-8").split('"""', 2)
    changes = [
        line
        for line in difflib.ndiff(PLAIN.split("\n"), game.split("\n"))
        if line.startswith(("+ ", "- ")) and line[2:].strip()
    ]
    assert all(line.startswith("+ ") for line in changes), changes
    assert 1 <= len(changes) <= 3, changes


def test_the_routes_answer_as_before_and_record_their_events(app: Flask, tmp_path: Path) -> None:
    client = app.test_client()
    answers = {path: client.get(path) for path in ("/", "/purchase_a_sword", "/join_guild", "/purchase_a_swor")}
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/": 200, "/purchase_a_sword": 200, "/join_guild": 200, "/purchase_a_swor": 404
    }  # fmt: skip
    assert [answers[path].text for path in ("/", "/purchase_a_sword", "/join_guild")] == [
        "This is the default response!\n",
        "Sword Purchased!\n",
        "Guild joined!\n",
    ]
    project = questlog.open(str(tmp_path))
    assert project.sql("select event_type from events order by event_id").rows() == [
        ("default",), ("purchase_sword",), ("join_guild",)
    ]  # fmt: skip
    assert project.sql("select count(*) from sword_purchases").rows() == [(1,)]
    assert project.sql("select count(*) from quarantine").rows() == [(0,)]
