"""An app for each test."""

from pathlib import Path

import pytest
from flask import Flask

from questlog.flask import (
    Questlog,
)
from support.flask_shop import PLAN


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    (tmp_path / "plan.toml").write_text(PLAN)
    app = Flask("game")
    Questlog(app, project=tmp_path)
    return app
