"""Set-up, plan changes, background mode, threads and forks."""

import logging
import os
import threading
import traceback
from pathlib import Path

import pytest
from flask import Flask, request

import questlog
from questlog.errors import PlanError, ProjectNotFound, QuestlogError
from questlog.flask import (
    EventRejected,
    Questlog,
    track,
)
from support.flask_shop import PLAN, events, expire_plan, full

# -- set-up --------------------------------------------------------------------------------------


def test_an_invalid_config_or_plan_stops_the_app_at_start(tmp_path: Path) -> None:
    with pytest.raises(ProjectNotFound):
        Questlog(Flask("game"), project=tmp_path)
    (tmp_path / "plan.toml").write_text("[events.hit]\nmod = 'reject'\n")
    with pytest.raises(PlanError, match="mod"):
        Questlog(Flask("game"), project=tmp_path)
    (tmp_path / "plan.toml").write_text("[events.hit]\n")
    with pytest.raises(QuestlogError, match="QUESTLOG_ACK is 'sometimes'"):
        Questlog(Flask("game"), project=tmp_path, ack="sometimes")
    assert not (tmp_path / ".questlog").exists(), "starting creates nothing"


def test_one_extension_serves_several_apps(tmp_path: Path) -> None:
    extension = Questlog()
    apps = []
    for name in ("red", "blue"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "plan.toml").write_text(PLAN)
        app = Flask(name)
        app.config["QUESTLOG_PROJECT"] = folder
        extension.init_app(app)
        app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
        apps.append(app)
    for _ in range(2):
        apps[0].test_client().get("/guild?guild=red")
    apps[1].test_client().get("/guild?guild=blue")
    assert [len(events(app)) for app in apps] == [2, 1]


def test_config_keys_reach_the_settings(app: Flask, tmp_path: Path) -> None:
    app.config.update(QUESTLOG_DATA=tmp_path / "elsewhere", QUESTLOG_MIN_FREE_MB=1)
    with app.app_context():
        track("join_guild")
    assert (tmp_path / "elsewhere" / "log").is_dir()
    assert app.extensions["questlog"].pipeline.project.settings.min_free_mb == 1


def test_a_plan_can_change_and_become_invalid_while_the_server_runs(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Path(app.config["QUESTLOG_PROJECT"]) / "plan.toml"
    with app.app_context():
        track("join_guild")
        plan.write_text("[events.oops")
        for _ in range(3):
            expire_plan(app)
            track("join_guild")
        assert [r.levelno for r in caplog.records if "is invalid" in r.message] == [logging.ERROR]
        plan.unlink()
        expire_plan(app)
        track("join_guild")
        plan.write_text(PLAN + "[events.fresh]\nmode = 'reject'\n[events.fresh.fields]\nx = 'int'\n")
        expire_plan(app)
        with pytest.raises(EventRejected):
            track("fresh", x="y")
    assert len(events(app)) == 5


# -- background mode-------------------------------------------------------------------------------


def test_background_events_are_flushed_when_the_process_ends(app: Flask) -> None:
    app.config["QUESTLOG_ACK"] = "background"
    with app.app_context():
        for _ in range(100):
            track("join_guild")
    app.extensions["questlog"]._sender.close()
    assert len(events(app)) == 100


def test_a_full_queue_refuses_events_and_counts_them(app: Flask) -> None:
    full(app)
    app.config["QUESTLOG_ACK"] = "background"
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    client = app.test_client()
    client.get("/guild")
    sender = app.extensions["questlog"]._sender
    sender.commits.max_waiting = 3
    statuses = [client.get("/guild").status_code for _ in range(10)]
    assert statuses == [200, 200] + [503] * 8
    assert sender.refused == 8
    app.extensions["questlog"].pipeline.log.min_free_bytes = 0  # the disk has space again
    sender.close()
    assert len(events(app)) == 3


# -- threads and forks ---------------------------------------------------------------------------


@pytest.mark.parametrize("ack", ["durable", "background"])
def test_parent_and_forked_child_both_record(app: Flask, ack: str) -> None:
    app.config["QUESTLOG_ACK"] = ack
    with app.app_context():
        track("join_guild", guild="parent")
        pid = os.fork()
        if pid == 0:
            try:
                track("join_guild", guild="child")
                if ack == "background":
                    app.extensions["questlog"]._sender.close()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        track("join_guild", guild="parent again")
    if ack == "background":
        app.extensions["questlog"]._sender.close()
    assert sorted(e["guild"] for e in events(app)) == ["child", "parent", "parent again"]


def test_many_threads_record_at_once(app: Flask) -> None:
    app.add_url_rule("/guild/<guild>", view_func=questlog.event("join_guild")(lambda guild: request.path))

    def work(name: str) -> None:
        for number in range(20):
            assert app.test_client().get(f"/guild/{name}-{number}").status_code == 200

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({e["guild"] for e in events(app)}) == len(events(app)) == 320
