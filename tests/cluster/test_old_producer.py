"""A game without questlog keeps working, and its events land in the same tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from questlog.stack import Stack
from support.cluster.cluster_project import Project, bench, get, serving
from support.paths import SUPPORT

OLD_GAME = SUPPORT / "cluster" / "kafka_producer_game.py"


@pytest.mark.timeout(900)
def test_a_plain_flask_app_with_kafka_python_lands_in_the_same_tables(stack: Stack, tmp_path: Path) -> None:
    """ApacheBench, Flask, kafka-python, flat JSON with the request's headers in it; then one `questlog land`."""
    project = Project(tmp_path, stack)
    project.run("topic", "create")
    shutil.copy(OLD_GAME, tmp_path)
    with serving(tmp_path, OLD_GAME.stem, KAFKA=stack.addresses.kafka, TOPIC=project.topic) as port:
        bench(port, "/purchase_a_sword", "user1.comcast.com", 10)
        bench(port, "/join_guild", "user1.comcast.com", 10)
        bench(port, "/join_guild", "foo.gmail.com", 5)
        assert get(port, "/purchase_a_swor")[0] == 404
    first = json.loads(project.exec("kcat", "-C", "-t", project.topic, "-e", "-J").splitlines()[0])
    assert json.loads(first["payload"])["event_type"] in ("purchase_sword", "join_guild")
    landed = json.loads(project.run("land", "--json").stdout)
    assert (landed["records"], landed["rows"]) == (25, {"join_guild": 15, "sword_purchases": 10})
    assert project.sql("select host as host, count(*) as count from join_guild group by host order by host") == [
        {"host": "foo.gmail.com", "count": 5}, {"host": "user1.comcast.com", "count": 10},
    ]  # fmt: skip
    (agents,) = project.sql("select min(accept) as accept, min(user_agent) as agent from sword_purchases")
    assert agents == {"accept": "*/*", "agent": agents["agent"]} and agents["agent"]
    assert json.loads(project.run("land", "--json").stdout)["records"] == 0
