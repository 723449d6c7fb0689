"""The Flask extension with Flask's own client: what is recorded when, with what, and what the client is told."""

import asyncio
import io
import json
import logging
import os
import sqlite3
import threading
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect, request
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from werkzeug.test import create_environ, run_wsgi_app

import questlog
from questlog.errors import PlanError, ProjectNotFound, QuestlogError
from questlog.flask import (
    EventRejected,
    LogUnavailable,
    Questlog,
    batch,
    capture_events,
    event_accepted,
    event_refused,
    event_rejected,
    track,
)

PLAN = """
[headers]
keep = ["Host", "X-Client"]

[routes]
"POST /shop/<item>" = "purchase"
"GET /api/look/<int:level>" = "look"

[events.purchase.fields]
item = "string"
price = "double"
gift = "bool"

[events.look.fields]
level = "int"
x = "int"

[events.join_guild.fields]
guild = "string"

[events.strict]
mode = "reject"
[events.strict.fields]
level = { type = "int", required = true }
"""


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    (tmp_path / "plan.toml").write_text(PLAN)
    app = Flask("game")
    Questlog(app, project=tmp_path)
    return app


def events(app: Flask) -> list[dict[str, Any]]:
    """Return every recorded event as it was sent, in order."""
    rows = questlog.open(app.config["QUESTLOG_PROJECT"]).sql(
        "select raw_event from (select event_id, raw_event from events union all"
        " select event_id, raw_event from quarantine) order by event_id"
    )
    return [json.loads(raw) for (raw,) in rows.rows()]


def look_again(app: Flask) -> None:
    """Turn the clock to where the app looks at its plan again."""
    app.extensions["questlog"]._look_again = 0.0


# -- the route map -------------------------------------------------------------------------------


def test_the_route_map_needs_no_code_and_takes_declared_fields(app: Flask) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    client = app.test_client()
    client.post("/shop/sword", json={"price": 9.5, "gift": True, "password": "secret", "item": "fake"})
    client.post("/shop/bow?player_id=ann&price=3", data={"gift": "false", "price": "4.5"})
    client.get("/shop/sword")  # 405
    assert events(app) == [
        {"event_type": "purchase", "item": "sword", "price": 9.5, "gift": True},
        {"event_type": "purchase", "player_id": "ann", "item": "bow", "price": 4.5, "gift": False},
    ]


def test_what_the_router_took_from_the_path_keeps_its_type_and_counts(app: Flask) -> None:
    api = Blueprint("api", __name__, url_prefix="/api")
    api.add_url_rule("/look/<int:level>", view_func=lambda level: "ok")
    app.register_blueprint(api)
    app.test_client().get("/api/look/3?level=99&x=many&session_id=s1")
    assert events(app) == [{"event_type": "look", "session_id": "s1", "level": 3, "x": "many"}]
    assert questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select field from quarantine").rows() == [("x",)]


@pytest.mark.parametrize("body", ["[1]", "{", '"text"', ""])
def test_a_body_that_is_no_object_is_no_field(app: Flask, body: str) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    answer = app.test_client().post("/shop/sword", data=body, content_type="application/json")
    assert answer.status_code == 200
    assert events(app) == [{"event_type": "purchase", "item": "sword"}]


HOSTILE = [
    rb'{"guild": "\ud800"}',
    b'{"guild": ' + b"9" * 400 + b"}",
    b'{"guild": 1e400}',
    b'{"guild": NaN}',
    b'{"guild": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"[" * 100_000,
    b'{"a": ' * 100_000,
    b'{"guild": "\xff\xfe"}',
    b'{"guild": "a\x00b"}',
    b'{"guild": "wolves",\n "guild":\n\r\n "bears"}',
]


@pytest.mark.parametrize("body", HOSTILE, ids=[str(body[:20]) for body in HOSTILE])
def test_no_body_turns_an_answer_into_an_error(app: Flask, body: bytes) -> None:
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"), methods=["POST"])
    answer = app.test_client().post("/guild", data=body, content_type="application/json")
    assert (answer.status_code, answer.text) == (200, "ok")
    project = questlog.open(app.config["QUESTLOG_PROJECT"])
    counts = project.sql("select (select count(*) from join_guild), (select count(*) from quarantine)").rows()
    assert sum(counts[0]) == 1


@pytest.mark.parametrize("ack", ["durable", "background"])
def test_a_path_with_a_number_of_any_length_is_recorded(app: Flask, ack: str) -> None:
    app.config["QUESTLOG_ACK"] = ack
    app.add_url_rule("/api/look/<int:level>", "look", lambda level: "ok")
    assert app.test_client().get("/api/look/" + "9" * 30).status_code == 200
    if ack == "background":
        app.extensions["questlog"]._sender.close()
    project = questlog.open(app.config["QUESTLOG_PROJECT"])
    (entry,) = project.log.read({}, 10).entries
    assert b'"level":' + b"9" * 30 in entry.value
    assert project.sql("select reason, field from quarantine").rows() == [("out_of_range", "level")]


def test_a_mark_and_a_route_of_the_same_name_are_one_event(app: Flask) -> None:
    app.add_url_rule("/api/look/<int:level>", "look", questlog.event("look")(lambda level: "ok"))
    app.test_client().get("/api/look/3")
    assert events(app) == [{"event_type": "look", "level": 3}]


def test_every_digit_of_a_number_in_the_body_is_kept(app: Flask) -> None:
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"), methods=["POST"])
    body = b'{"guild": 12345678901234567890.1234567890}'
    app.test_client().post("/guild", data=body, content_type="application/json")
    (record,) = questlog.open(app.config["QUESTLOG_PROJECT"]).log.read({}, 10).entries
    assert b"12345678901234567890.1234567890" in record.value


def test_a_body_of_unknown_or_enormous_length_is_not_read(app: Flask) -> None:
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"), methods=["POST"])
    for kind in ("application/json", "application/x-www-form-urlencoded"):
        for length in (None, 1 << 40):
            environ = create_environ("/guild", method="POST")
            environ |= {"wsgi.input": Unreadable(), "CONTENT_TYPE": kind, "wsgi.input_terminated": True}
            environ |= {"CONTENT_LENGTH": str(length)} if length else {}
            _, status, _ = run_wsgi_app(app, environ)
            assert status == "200 OK"
    assert events(app) == [{"event_type": "join_guild"}] * 4


class Unreadable(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("nobody may read this")


def test_a_route_that_the_app_does_not_have_is_told(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.add_url_rule("/shop/<item>", "shop", lambda item: "Sold!", methods=["POST"])
    app.add_url_rule("/api/look/<level>", "look", lambda level: "ok")
    for _ in range(2):
        app.test_client().post("/shop/sword")
    assert [record.message for record in caplog.records if "route" in record.message] == [
        "the plan's route 'GET /api/look/<int:level>' is none of the app's; did you mean 'GET /api/look/<level>'?"
    ]


# -- the mark ------------------------------------------------------------------------------------


class Caught(Exception):
    """What a view raises and an error handler answers with 200."""


def caught() -> str:
    raise Caught


@pytest.mark.parametrize(
    ("view", "recorded"),
    [
        (lambda: "ok", True),
        (lambda: ("made", 201), True),
        (lambda: redirect("/"), True),
        (lambda: ("bad", 400), False),
        (lambda: abort(403), False),
        (lambda: 1 / 0, False),
        (lambda: caught(), False),
        (lambda: Response(iter(["a", "b"])), True),
    ],
)
def test_a_marked_view_is_recorded_only_when_it_succeeded(app: Flask, view: Any, recorded: bool) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.register_error_handler(Caught, lambda error: "that is all right")
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: view()))
    app.test_client().get("/guild?guild=wolves")
    assert events(app) == ([{"event_type": "join_guild", "guild": "wolves"}] if recorded else [])


def test_a_view_that_was_not_reached_is_not_recorded(app: Flask) -> None:
    """A login check answers 302 in its stead."""
    app.before_request(lambda: redirect("/login"))
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    app.add_url_rule("/api/look/<int:level>", "look", lambda level: "ok")  # in the route map
    assert app.test_client().get("/guild").status_code == 302
    assert app.test_client().get("/api/look/3").status_code == 302
    assert events(app) == []


def test_async_views_can_be_marked(app: Flask) -> None:
    app.async_to_sync = lambda view: lambda *a, **k: asyncio.run(view(*a, **k))  # type: ignore[method-assign]

    @app.get("/async")
    @questlog.event("join_guild")
    async def joined() -> str:
        return "ok"

    @app.get("/async/broken")
    @questlog.event("join_guild")
    async def broken() -> str:
        return abort(409)

    assert app.test_client().get("/async").text == "ok"
    assert app.test_client().get("/async/broken").status_code == 409
    assert len(events(app)) == 1


def test_methods_of_class_views_can_be_marked(app: Flask) -> None:
    class Guild(MethodView):
        @questlog.event("join_guild")
        def post(self, guild: str) -> str:
            return guild

        def get(self, guild: str) -> str:
            return guild

    app.add_url_rule("/guild/<guild>", view_func=Guild.as_view("guild"))
    client = app.test_client()
    client.get("/guild/wolves")
    client.post("/guild/bears")
    assert events(app) == [{"event_type": "join_guild", "guild": "bears"}]


# -- track ---------------------------------------------------------------------------------------


def test_track_works_anywhere_in_a_request(app: Flask) -> None:
    app.before_request(lambda: track("join_guild", guild="before") and None)
    app.teardown_request(lambda error: track("join_guild", guild="teardown") and None)

    @app.errorhandler(404)
    def lost(error: Exception) -> ResponseReturnValue:
        track("join_guild", guild="lost")
        return "lost", 404

    app.test_client().get("/nowhere")
    assert [e["guild"] for e in events(app)] == ["before", "lost", "teardown"]


def test_track_works_in_an_app_context_and_says_so_elsewhere(app: Flask) -> None:
    with app.app_context():
        event_id = track("join_guild", player_id="ann", session_id="s", guild="night job")
    assert events(app) == [{"event_type": "join_guild", "player_id": "ann", "session_id": "s", "guild": "night job"}]
    assert questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select event_id from join_guild").rows() == [(event_id,)]
    with pytest.raises(QuestlogError, match="inside a request or an app context"):
        track("join_guild")


def test_an_app_without_the_extension_is_told(tmp_path: Path) -> None:
    with Flask("bare").app_context(), pytest.raises(QuestlogError, match="this app has no questlog"):
        track("join_guild")


def test_the_servers_fields_win(app: Flask) -> None:
    with app.app_context():
        track("join_guild", event_type="look", received_time="1999-01-01", guild="wolves")  # type: ignore[arg-type]
    (row,) = (
        questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select event_type, received_time from join_guild").dicts()
    )
    assert row["event_type"] == "join_guild" and row["received_time"].year > 2000


def test_an_id_of_ones_own_counts_once(app: Flask) -> None:
    with app.app_context():
        assert track("join_guild", event_id="once") == "once"
        track("join_guild", event_id="once")
    assert len(events(app)) == 1


@pytest.mark.parametrize("event_id", ["", "x" * 201, 7])
def test_an_id_that_cannot_be_one_is_a_sentence(app: Flask, event_id: Any) -> None:
    with app.app_context(), pytest.raises(QuestlogError, match="1 to 200 characters"):
        track("join_guild", event_id=event_id)


def test_a_value_that_json_cannot_hold_is_a_sentence(app: Flask) -> None:
    with app.app_context(), pytest.raises(QuestlogError, match="join_guild"):
        track("join_guild", guild=object())


def test_an_envelope_of_ones_own_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(
        '[envelope]\nevent_type = "meta.name"\nplayer_id = "who"\nfields = "data"\n[events.hit.fields]\nlevel = "int"\n'
    )
    app = Flask("game")
    Questlog(app, project=tmp_path)
    with app.app_context():
        track("hit", player_id="ann", level=3)
    project = questlog.open(tmp_path)
    assert project.sql("select player_id, level, raw_event from hit").rows() == [
        ("ann", 3, '{"data":{"level":3},"who":"ann","meta":{"name":"hit"}}')
    ]


# -- several events in one step ------------------------------------------------------------------


def commits(app: Flask) -> list[int]:
    """Return how many records each commit of the log holds."""
    folder = questlog.open(app.config["QUESTLOG_PROJECT"]).project.log_folder
    found = []
    for file in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(file)) as connection:
            found += [count for (count,) in connection.execute("select count from batches order by first")]
    return found


def test_a_batch_is_one_commit(app: Flask) -> None:
    def view() -> str:
        with batch():
            track("join_guild", guild="wolves")
            with batch():
                track("look", level=3)
        track("join_guild", guild="bears")
        return "ok"

    app.add_url_rule("/guild", view_func=view)
    assert app.test_client().get("/guild").status_code == 200
    assert [e["event_type"] for e in events(app)] == ["join_guild", "look", "join_guild"]
    assert commits(app) == [2, 1]


def test_marks_and_routes_of_one_request_are_one_commit(app: Flask) -> None:
    view = questlog.event("join_guild")(questlog.event("purchase")(lambda level: "ok"))
    app.add_url_rule("/api/look/<int:level>", "look", view)
    app.test_client().get("/api/look/3")
    assert sorted(e["event_type"] for e in events(app)) == ["join_guild", "look", "purchase"]
    assert commits(app) == [3]


def test_a_batch_is_all_or_nothing(app: Flask) -> None:
    with app.app_context():
        with pytest.raises(EventRejected), batch():
            track("join_guild")
            track("strict", level="x")
        with pytest.raises(ZeroDivisionError), batch():
            track("join_guild")
            _ = 1 / 0
        track("join_guild", guild="after")
    assert [e.get("guild") for e in events(app)] == ["after"]


def test_a_batch_that_the_log_refuses_is_503(app: Flask) -> None:
    full(app)

    def view() -> str:
        with batch():
            track("join_guild")
        return "never"

    app.add_url_rule("/guild", view_func=view)
    answer = app.test_client().get("/guild")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")


# -- headers -------------------------------------------------------------------------------------


def test_only_kept_headers_are_stored(app: Flask) -> None:
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    secret = {
        "Cookie": "sesame",
        "Authorization": "Bearer sesame",
        "X-Client": "käse".encode().decode("latin-1"),
        "X-Other": "sesame",
    }
    app.test_client().get("/guild", headers=secret)
    project = questlog.open(app.config["QUESTLOG_PROJECT"])
    assert project.sql("select host, x_client from join_guild").rows() == [("localhost", "käse")]
    stored = b"".join(path.read_bytes() for path in project.project.data.rglob("*") if path.is_file())
    assert b"sesame" not in stored and b"join_guild" in b"".join(e.value for e in project.log.read({}, 10).entries)


# -- refusals ------------------------------------------------------------------------------------


def full(app: Flask) -> None:
    app.config["QUESTLOG_MIN_FREE_MB"] = 1 << 30
    app.config["QUESTLOG_RETRY_AFTER_SECONDS"] = 7


def test_a_log_that_refuses_is_503_with_retry_after(app: Flask) -> None:
    full(app)
    app.add_url_rule("/marked", "marked", questlog.event("join_guild")(lambda: Response(iter(["a"]))))
    app.add_url_rule("/tracked", "tracked", lambda: track("join_guild"))
    for path in ("/marked", "/tracked"):
        answer = app.test_client().get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")
        assert "watermark" in answer.text and "Traceback" not in answer.text
    assert events(app) == []


def test_a_data_folder_that_cannot_be_written_is_503(app: Flask, tmp_path: Path) -> None:
    (tmp_path / ".questlog").write_text("in the way")
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    answer = app.test_client().get("/guild")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Traceback" not in answer.text
    (tmp_path / ".questlog").unlink()
    assert app.test_client().get("/guild").status_code == 200, "it recovers by itself"


def test_an_answer_that_is_replaced_is_closed(app: Flask) -> None:
    full(app)
    closed: list[bool] = []

    def view() -> Response:
        response = Response(iter(["a", "b"]))
        response.call_on_close(lambda: closed.append(True))
        return response

    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(view))
    assert app.test_client().get("/guild").status_code == 503
    assert closed == [True]


def test_a_view_may_handle_a_refusal_itself(app: Flask) -> None:
    full(app)

    def view() -> str:
        try:
            track("join_guild")
        except LogUnavailable:
            return "kept for later"
        return "recorded"

    app.add_url_rule("/guild", view_func=view)
    assert app.test_client().get("/guild").text == "kept for later"


def test_a_rejected_event_is_422_and_nothing_is_recorded(app: Flask) -> None:
    app.add_url_rule("/strict", view_func=lambda: track("strict", level="x"))
    answer = app.test_client().get("/strict")
    assert (answer.status_code, answer.text) == (422, "wrong_type level 'x' is no int\n")
    with app.app_context(), pytest.raises(EventRejected) as refused:
        track("strict")
    assert (refused.value.reason, refused.value.field) == ("missing_field", "level")
    assert events(app) == []


def test_a_rejected_event_of_a_marked_view_leaves_its_answer(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.add_url_rule("/strict", view_func=questlog.event("strict")(lambda: "done"))
    assert app.test_client().get("/strict?level=x").text == "done"
    assert "rejected=wrong_type field=level" in caplog.text
    assert events(app) == []


# -- signals and captures ------------------------------------------------------------------------


def test_signals_tell_what_became_of_an_event(app: Flask) -> None:
    told: list[tuple[str, str]] = []

    def accepted(sender: Flask, event: dict[str, Any], receipt: Any) -> None:
        told.append(("accepted", event["event_type"]))
        assert sender is app and receipt.event_id

    def rejected(sender: Flask, event: dict[str, Any], receipt: Any) -> None:
        told.append(("rejected", receipt.reason))

    def refused(sender: Flask, event: dict[str, Any], error: Exception) -> None:
        told.append(("refused", event["event_type"]))

    with (
        event_accepted.connected_to(accepted, app),
        event_rejected.connected_to(rejected, app),
        event_refused.connected_to(refused, app),
        app.app_context(),
    ):
        track("join_guild")
        with pytest.raises(EventRejected):
            track("strict")
        app.extensions["questlog"].pipeline.log.min_free_bytes = 1 << 60
        app.extensions["questlog"].pipeline.log._looked = 0.0
        with pytest.raises(LogUnavailable):
            track("join_guild")
    assert told == [("accepted", "join_guild"), ("rejected", "missing_field"), ("refused", "join_guild")]


def test_captured_events_are_judged_and_not_written(app: Flask, questlog_events: Any) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    with capture_events(app) as captured:
        app.test_client().post("/shop/sword", json={"price": "cheap"})
        with questlog_events(app) as inner, app.app_context():
            track("join_guild")
    assert captured == [{"event_type": "purchase", "item": "sword", "price": "cheap"}] and len(inner) == 1
    assert [(e["item"], reject.reason, reject.field) for e, reject in captured.bad] == [
        ("sword", "wrong_type", "price")
    ]
    assert not (Path(app.config["QUESTLOG_PROJECT"]) / ".questlog").exists()


# -- set-up --------------------------------------------------------------------------------------


def test_faults_are_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ProjectNotFound):
        Questlog(Flask("game"), project=tmp_path)
    (tmp_path / "plan.toml").write_text("[events.hit]\nmod = 'reject'\n")
    with pytest.raises(PlanError, match="mod"):
        Questlog(Flask("game"), project=tmp_path)
    (tmp_path / "plan.toml").write_text("[events.hit]\n")
    with pytest.raises(QuestlogError, match="QUESTLOG_ACK is 'sometimes'"):
        Questlog(Flask("game"), project=tmp_path, ack="sometimes")
    assert not (tmp_path / ".questlog").exists(), "starting opens and creates nothing"


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


def test_a_plan_may_grow_and_break_while_the_server_runs(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    plan = Path(app.config["QUESTLOG_PROJECT"]) / "plan.toml"
    with app.app_context():
        track("join_guild")
        plan.write_text("[events.oops")
        for _ in range(3):
            look_again(app)
            track("join_guild")
        assert [r.levelno for r in caplog.records if "cannot be used" in r.message] == [logging.ERROR]
        plan.unlink()
        look_again(app)
        track("join_guild")
        plan.write_text(PLAN + "[events.fresh]\nmode = 'reject'\n[events.fresh.fields]\nx = 'int'\n")
        look_again(app)
        with pytest.raises(EventRejected):
            track("fresh", x="y")
    assert len(events(app)) == 5


# -- background ----------------------------------------------------------------------------------


def test_in_the_background_events_arrive_soon_and_at_the_latest_at_the_end(app: Flask) -> None:
    app.config["QUESTLOG_ACK"] = "background"
    with app.app_context():
        for _ in range(100):
            track("join_guild")
    app.extensions["questlog"]._sender.close()
    assert len(events(app)) == 100


def test_a_full_queue_refuses(app: Flask) -> None:
    full(app)
    app.config["QUESTLOG_ACK"] = "background"
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    client = app.test_client()
    client.get("/guild")
    sender = app.extensions["questlog"]._sender
    sender.max_waiting = 3
    statuses = [client.get("/guild").status_code for _ in range(10)]
    assert statuses == [200, 200] + [503] * 8
    assert sender.refused == 8
    app.extensions["questlog"].pipeline.log.min_free_bytes = 0  # space returns
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
