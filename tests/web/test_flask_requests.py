"""What a request records: the plan's routes, marked views, kept headers."""

import asyncio
import io
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect
from flask.views import MethodView
from werkzeug.test import create_environ, run_wsgi_app

import questlog
from support.flask_shop import events

# -- routes ------------------------------------------------------------------------------------


def test_a_route_records_the_declared_fields_without_code_in_the_app(app: Flask) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    client = app.test_client()
    client.post("/shop/sword", json={"price": 9.5, "gift": True, "password": "secret", "item": "fake"})
    client.post("/shop/bow?player_id=ann&price=3", data={"gift": "false", "price": "4.5"})
    client.get("/shop/sword")  # 405
    assert events(app) == [
        {"event_type": "purchase", "item": "sword", "price": 9.5, "gift": True},
        {"event_type": "purchase", "player_id": "ann", "item": "bow", "price": 4.5, "gift": False},
    ]


def test_a_value_from_the_path_keeps_its_type_and_takes_precedence(app: Flask) -> None:
    api = Blueprint("api", __name__, url_prefix="/api")
    api.add_url_rule("/look/<int:level>", view_func=lambda level: "ok")
    app.register_blueprint(api)
    app.test_client().get("/api/look/3?level=99&x=many&session_id=s1")
    assert events(app) == [{"event_type": "look", "session_id": "s1", "level": 3, "x": "many"}]
    assert questlog.open(app.config["QUESTLOG_PROJECT"]).sql("select field from quarantine").rows() == [("x",)]


@pytest.mark.parametrize("body", ["[1]", "{", '"text"', ""])
def test_a_body_that_is_not_an_object_gives_no_fields(app: Flask, body: str) -> None:
    app.add_url_rule("/shop/<item>", view_func=lambda item: "Sold!", methods=["POST"])
    response = app.test_client().post("/shop/sword", data=body, content_type="application/json")
    assert response.status_code == 200
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
def test_no_body_can_turn_a_response_into_an_error(app: Flask, body: bytes) -> None:
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"), methods=["POST"])
    response = app.test_client().post("/guild", data=body, content_type="application/json")
    assert (response.status_code, response.text) == (200, "ok")
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


def test_a_mark_and_a_route_with_the_same_event_record_it_once(app: Flask) -> None:
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
        raise AssertionError("this body must not be read")


def test_a_route_that_the_app_does_not_have_is_logged(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.add_url_rule("/shop/<item>", "shop", lambda item: "Sold!", methods=["POST"])
    app.add_url_rule("/api/look/<level>", "look", lambda level: "ok")
    for _ in range(2):
        app.test_client().post("/shop/sword")
    assert [record.message for record in caplog.records if "route" in record.message] == [
        "the plan's route 'GET /api/look/<int:level>' does not exist in the app; did you mean 'GET /api/look/<level>'?"
    ]


# -- marked views -------------------------------------------------------------------------------


class Caught(Exception):
    """A view raises this, and an error handler turns it into a 200."""


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
def test_a_marked_view_is_recorded_only_if_it_succeeds(app: Flask, view: Any, recorded: bool) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.register_error_handler(Caught, lambda error: "handled")
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: view()))
    app.test_client().get("/guild?guild=wolves")
    assert events(app) == ([{"event_type": "join_guild", "guild": "wolves"}] if recorded else [])


def test_a_view_that_was_not_reached_is_not_recorded(app: Flask) -> None:
    """A login check redirects before the view runs."""
    app.before_request(lambda: redirect("/login"))
    app.add_url_rule("/guild", view_func=questlog.event("join_guild")(lambda: "ok"))
    app.add_url_rule("/api/look/<int:level>", "look", lambda level: "ok")  # a route of the plan
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
