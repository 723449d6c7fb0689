"""The WSGI and ASGI middleware around any app: what is recorded, when, and what the client receives."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import create_environ, run_wsgi_app

import questlog
from questlog.errors import PlanError, QuestlogError
from questlog.middleware import ASGIMiddleware, WSGIMiddleware
from questlog.testing import capture_events

PLAN = """
[headers]
keep = ["Host", "X-Client"]
[routes]
"POST /shop/<item>" = "purchase"
"GET /level/<int:level>" = "look"
"POST /strict" = "strict"
[events.purchase.fields]
item = "string"
price = "double"
gift = "bool"
[events.look.fields]
level = "int"
[events.strict]
mode = "reject"
[events.strict.fields]
level = { type = "int", required = true }
"""
FULL = {"min_free_mb": 2**40, "retry_after_seconds": 7}


class App:
    """A WSGI and ASGI app in one: it reads the body, remembers it, and responds with a status."""

    def __init__(self, status: int = 200) -> None:
        self.status, self.bodies, self.closed = status, [], 0

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.bodies.append(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        start(f"{self.status} Any", [("X-App", "yes")])
        return self

    def __iter__(self) -> Any:
        return iter([b"Sold", b"!"])

    def close(self) -> None:
        self.closed += 1

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-app", b"yes")]})
        await send({"type": "http.response.body", "body": b"Sold", "more_body": True})
        await send({"type": "http.response.body", "body": b"!"})


Response = tuple[int, dict[str, str], bytes]
Call = Callable[..., Response]


def call_wsgi(
    middleware: WSGIMiddleware, method: str, target: str, **request: Any
) -> tuple[int, dict[str, str], bytes]:
    path, _, query = target.partition("?")
    environ = create_environ(path, "http://game.example", method=method, query_string=query, **request)
    parts, status, headers = run_wsgi_app(middleware, environ)
    return int(status[:3]), {k.lower(): v for k, v in headers.items()}, b"".join(parts)


def call_asgi(
    middleware: ASGIMiddleware, method: str, target: str, **request: Any
) -> tuple[int, dict[str, str], bytes]:
    return asyncio.run(ask(middleware, method, target, **request))


async def ask(
    middleware: Any, method: str, target: str, data: bytes = b"", content_type: str = "", root: str = "",
    headers: dict[str, str] | None = None,
) -> Response:  # fmt: skip
    path, _, query = target.partition("?")
    pairs = {"host": "game.example", **(headers or {})}
    if content_type:
        pairs |= {"content-type": content_type, "content-length": str(len(data))}
    scope = {
        "type": "http", "method": method, "path": root + path, "root_path": root, "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("utf-8")) for name, value in pairs.items()],
    }  # fmt: skip
    half = len(data) // 2
    messages = iter([{"type": "http.request", "body": data[:half], "more_body": True},
                     {"type": "http.request", "body": data[half:]}])  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    await middleware(scope, receive, send)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    headers_sent = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers_sent, b"".join(message["body"] for message in sent[1:])


@pytest.fixture(params=["wsgi", "asgi"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make(side: str, tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "plan.toml").write_text(PLAN)

    def make(app: App, **options: Any) -> Any:
        kind = {"wsgi": WSGIMiddleware, "asgi": ASGIMiddleware}[side]
        return kind(app if side == "wsgi" else app.asgi, project=tmp_path, **options)

    return make


@pytest.fixture
def call(side: str) -> Call:
    return call_wsgi if side == "wsgi" else call_asgi


def events(folder: Path) -> list[dict[str, Any]]:
    rows = questlog.open(folder).sql("select raw_event from events order by event_id").rows()
    return [json.loads(raw) for (raw,) in rows]


def test_a_route_takes_fields_from_path_body_form_and_query(make: Any, call: Call, tmp_path: Path) -> None:
    app = App()
    middleware = make(app)
    body = json.dumps({"price": 9.5, "gift": True, "password": "secret", "item": "fake", "event_type": "look"}).encode()
    response = call(middleware, "POST", "/shop/sword", data=body, content_type="application/json")
    assert (response[0], response[1]["x-app"], response[2]) == (200, "yes", b"Sold!")
    form = b"gift=false&price=4.5&price=7"
    call(middleware, "POST", "/shop/bow?player_id=ann&price=3", data=form,
         content_type="application/x-www-form-urlencoded")  # fmt: skip
    call(middleware, "GET", "/level/3")
    call(middleware, "GET", "/nowhere")
    call(middleware, "PUT", "/shop/sword")
    assert [body, form] == [each for each in app.bodies if each], "the app reads every body in full"
    assert events(tmp_path) == [
        {"item": "sword", "price": 9.5, "gift": True, "event_type": "purchase"},
        {"player_id": "ann", "item": "bow", "price": 4.5, "gift": False, "event_type": "purchase"},
        {"level": 3, "event_type": "look"},
    ]


@pytest.mark.parametrize(
    ("status", "redirects", "recorded"),
    [(200, False, 1), (201, False, 1), (204, False, 1), (303, False, 0), (303, True, 1), (304, False, 0),
     (400, True, 0), (404, True, 0), (500, True, 0)],
)  # fmt: skip
def test_only_a_success_is_recorded(
    make: Any, call: Call, tmp_path: Path, status: int, redirects: bool, recorded: int
) -> None:
    """A redirect may lead to a login page, which a middleware cannot distinguish from a success."""
    response = call(make(App(status), redirects=redirects), "POST", "/shop/sword")
    assert status == response[0]
    assert recorded == len(events(tmp_path))


def test_a_log_that_refuses_is_503_with_retry_after(make: Any, call: Call, tmp_path: Path) -> None:
    middleware = make(App(), **FULL)
    status, headers, body = call(middleware, "POST", "/shop/sword")
    assert (status, headers["retry-after"]) == (503, "7")
    assert b"watermark" in body and "x-app" not in headers
    assert call(middleware, "GET", "/other")[0] == 200
    assert call(make(App(404), **FULL), "POST", "/shop/sword")[0] == 404, "a request that records nothing needs no log"
    assert events(tmp_path) == []


def test_an_event_that_the_plan_rejects_leaves_the_response_alone(
    make: Any, call: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call(make(App()), "POST", "/strict?level=many")[0] == 200
    assert "rejected=wrong_type field=level" in caplog.text
    assert events(tmp_path) == []


def test_kept_headers_are_columns(make: Any, call: Call, tmp_path: Path) -> None:
    call(make(App()), "GET", "/level/1", headers={"X-Client": "unity", "Cookie": "secret"})
    rows = questlog.open(tmp_path).sql("select host, x_client from look").rows()
    assert rows == [("game.example", "unity")]


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b'"text"', b"[" * 5000])
def test_a_body_that_is_not_an_object_gives_no_fields(make: Any, call: Call, tmp_path: Path, body: bytes) -> None:
    app = App()
    assert call(make(app), "POST", "/shop/sword", data=body, content_type="application/json")[0] == 200
    assert [body] == app.bodies
    assert events(tmp_path) == [{"item": "sword", "event_type": "purchase"}]


def test_a_large_body_is_not_read(make: Any, call: Call, tmp_path: Path) -> None:
    app, body = App(), b'{"price": 1, "x": "' + b"x" * (1 << 20) + b'"}'
    assert call(make(app), "POST", "/shop/sword", data=body, content_type="application/json")[0] == 200
    assert [body] == app.bodies
    assert events(tmp_path) == [{"item": "sword", "event_type": "purchase"}]


def test_captured_events_are_not_written(make: Any, call: Call, tmp_path: Path) -> None:
    middleware = make(App())
    with capture_events(middleware) as captured:
        call(middleware, "POST", "/shop/sword?price=many")
    assert list(captured) == [{"item": "sword", "price": "many", "event_type": "purchase"}]
    assert [reject.field for _, reject in captured.bad] == ["price"]
    assert events(tmp_path) == []


def test_background_events_are_written_after_the_response(make: Any, call: Call, tmp_path: Path) -> None:
    middleware = make(App(), ack="background")
    assert call(middleware, "POST", "/shop/sword")[0] == 200
    middleware.questlog.recorder._sender.close()
    assert len(events(tmp_path)) == 1


def test_a_changed_plan_takes_effect_without_a_restart(make: Any, call: Call, tmp_path: Path) -> None:
    middleware = make(App())
    call(middleware, "GET", "/new")
    (tmp_path / "plan.toml").write_text(PLAN.replace('"POST /strict"', '"GET /new" = "look"\n"POST /strict"'))
    middleware.questlog.recorder._plan_expires = 0.0  # as if a tenth of a second had passed
    call(middleware, "GET", "/new")
    assert events(tmp_path) == [{"event_type": "look"}]


def test_an_invalid_config_or_plan_stops_the_app_at_start(make: Any, tmp_path: Path) -> None:
    with pytest.raises(QuestlogError, match="QUESTLOG_ACK is 'never'"):
        make(App(), ack="never")
    (tmp_path / "plan.toml").write_text("[events.x]\nmode = 'maybe'\n")
    with pytest.raises(PlanError):
        make(App())


# -- WSGI only -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def test_a_generator_app_is_recorded_before_its_first_part_is_sent(folder: Path) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [])
        yield b"one"
        assert len(events(folder)) == 1, "it is already recorded"
        yield b"two"

    assert call_wsgi(WSGIMiddleware(app, project=folder), "POST", "/shop/sword")[2] == b"onetwo"


def test_an_app_that_calls_write_is_recorded_before_its_first_part_is_sent(folder: Path) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        write = start("200 OK", [])
        write(b"one")
        assert len(events(folder)) == 1, "it is already recorded"
        write(b"two")
        return [b"three"]

    assert call_wsgi(WSGIMiddleware(app, project=folder), "POST", "/shop/sword")[2] == b"onetwothree"
    assert len(events(folder)) == 1, "and it is recorded once"


def test_an_app_that_replaces_its_response_with_an_error_page_records_nothing(folder: Path) -> None:
    def app(environ: Any, start: Any) -> Iterable[bytes]:
        start("200 OK", [])
        try:
            raise ValueError
        except ValueError as error:
            start("500 Oh", [], (type(error), error, error.__traceback__))
        return [b"sorry"]

    assert call_wsgi(WSGIMiddleware(app, project=folder), "POST", "/shop/sword")[0] == 500
    assert events(folder) == []


@pytest.mark.parametrize("options", [{}, FULL])
def test_the_response_is_closed_once(folder: Path, options: dict[str, Any]) -> None:
    app = App()
    parts, _, _ = run_wsgi_app(WSGIMiddleware(app, project=folder, **options), create_environ("/shop/x", method="POST"))
    list(parts)
    if not options:  # a refused response has been closed already
        parts.close()
    assert app.closed == 1


def test_a_path_is_decoded_as_utf8(folder: Path) -> None:
    call_wsgi(WSGIMiddleware(App(), project=folder), "POST", "/shop/épée")
    assert events(folder) == [{"item": "épée", "event_type": "purchase"}]


def test_a_failing_generator_is_closed(folder: Path) -> None:
    class Fails(App):
        def __call__(self, environ: Any, start: Any) -> Iterable[bytes]:
            return self

        def __iter__(self) -> Any:
            raise OSError("broken")

    app = Fails()
    environ = create_environ("/shop/x", method="POST", input_stream=io.BytesIO())
    with pytest.raises(OSError, match="broken"):
        WSGIMiddleware(app, project=folder)(environ, lambda *_: None)
    assert app.closed == 1


# -- ASGI only -------------------------------------------------------------------------------------


def test_requests_that_wait_for_the_disk_share_a_commit_and_do_not_block_others(folder: Path) -> None:
    middleware = ASGIMiddleware(App().asgi, project=folder)
    recorder, disk, entered, groups = middleware.questlog.recorder, threading.Event(), threading.Event(), []
    commit = recorder.commit

    def slow(group: Any) -> None:
        groups.append(len(group))
        entered.set()
        assert disk.wait(20)
        commit(group)

    recorder.commit = slow  # type: ignore[method-assign]

    async def story() -> None:
        buys = [asyncio.create_task(ask(middleware, "POST", f"/shop/{n}")) for n in range(9)]
        await asyncio.to_thread(entered.wait, 20)
        assert (await ask(middleware, "GET", "/other"))[0] == 200
        assert not any(buy.done() for buy in buys)
        buys[3].cancel()  # its client disconnects
        disk.set()
        responses = await asyncio.gather(*buys, return_exceptions=True)
        assert sum(isinstance(each, tuple) and each[0] == 200 for each in responses) == 8

    asyncio.run(story())
    assert sum(groups) == 9 and len(groups) <= 2
    assert len(events(folder)) == 9


def test_a_mounted_app_matches_paths_below_its_mount_point(folder: Path) -> None:
    asyncio.run(ask(ASGIMiddleware(App().asgi, project=folder), "POST", "/shop/sword", root="/game"))
    assert len(events(folder)) == 1


def test_other_messages_than_requests_are_passed_on(folder: Path) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(ASGIMiddleware(app, project=folder)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
