"""One event from HTTP to SQL: read this first."""

import shutil
from pathlib import Path

from flask import Flask

import questlog
from questlog.flask import Questlog
from support.paths import SWORDS


def test_an_acknowledged_event_is_in_the_very_next_query_once(tmp_path: Path) -> None:
    shutil.copy(SWORDS / "plan.toml", tmp_path)
    app = Flask("game")
    Questlog(app, project=tmp_path)
    app.add_url_rule("/join_guild", view_func=lambda: "Guild joined!\n")

    answer = app.test_client().get("/join_guild", headers={"Host": "user1.comcast.com"})
    assert (answer.status_code, answer.text) == (200, "Guild joined!\n")

    project = questlog.open(tmp_path)
    question = "select event_type, host, count(*) from join_guild group by all"
    assert project.sql(question).rows() == [("join_guild", "user1.comcast.com", 1)]  # from the tail

    with project.lander() as lander:
        assert lander.drain().rows == {"join_guild": 1}
    assert project.sql(question).rows() == [("join_guild", "user1.comcast.com", 1)]  # from the table
