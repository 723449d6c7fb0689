"""FastAPI and Django on real servers that are killed under load, or whose log refuses."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import questlog
from support.game_processes import assert_promise
from support.ports import free_port
from support.waiting import until

PLAN = """
[routes]
"POST /shop/{item}" = "purchase"
[events.purchase.fields]
item = { type = "string", required = true }
gold = "int"
"""
FASTAPI = """
from fastapi import FastAPI
from questlog.middleware import ASGIMiddleware

app = FastAPI()
app.add_middleware(ASGIMiddleware, project=".")

@app.post("/shop/{item}")
async def buy(item: str, order: dict) -> dict:
    return {"sold": item, "gold": order["gold"]}

@app.get("/healthy")
async def healthy() -> str:
    return "yes"
"""
DJANGO = """
import json
import django
from django.conf import settings
from django.http import HttpResponse, JsonResponse
from django.urls import path
from questlog.middleware import ASGIMiddleware, WSGIMiddleware

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test")

def buy(request, item):
    return JsonResponse({"sold": item, "gold": json.loads(request.body)["gold"]})

urlpatterns = [path("shop/<str:item>", buy), path("healthy", lambda request: HttpResponse("yes"))]
django.setup()
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
wsgi = WSGIMiddleware(get_wsgi_application(), project=".")
asgi = ASGIMiddleware(get_asgi_application(), project=".")
"""
AT = ["--host=127.0.0.1", "--port={port}"]
SERVERS = {
    "fastapi on uvicorn": ["uvicorn", "--workers=2", *AT, "fast:app"],
    "fastapi on granian": ["granian", "--interface=asgi", "--workers=2", *AT, "fast:app"],
    "django on gunicorn": ["gunicorn", "--no-control-socket", "--workers=2", "--threads=4", "--bind=127.0.0.1:{port}",
                           "game:wsgi"],
    "django on uvicorn": ["uvicorn", *AT, "game:asgi"],
}  # fmt: skip


class Server:
    """A real server in its own process group."""

    def __init__(self, folder: Path, kind: str, **environment: str) -> None:
        (folder / "plan.toml").write_text(PLAN)
        (folder / "fast.py").write_text(FASTAPI)
        (folder / "game.py").write_text(DJANGO)
        self.port = free_port()
        program, *arguments = [part.format(port=self.port) for part in SERVERS[kind]]
        self.output = folder / "server.log"
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name(program)), *arguments], cwd=folder, stdout=output, stderr=output,
                start_new_session=True, env={**os.environ, "PYTHONPATH": str(folder), **environment},
            )  # fmt: skip
        until(self._answers, f"{kind} answers", 60)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        with contextlib.suppress(OSError):
            return self.ask("GET", "/healthy")[0] == 200
        return False

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str | None]:
        """Return status and Retry-After of one request on its own connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            response.read()
            return response.status, response.headers["Retry-After"]

    def kill(self) -> None:
        """Kill the server and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Buyers:
    """Threads that buy each item once until the server is gone."""

    def __init__(self, server: Server, threads: int = 6) -> None:
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self._server = server
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, name: int) -> None:
        number = 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                number += 1
                item = f"{name}-{number}"
                self.sent.add(item)
                if self._server.ask("POST", f"/shop/{item}", '{"gold": 5}')[0] == 200:
                    self.acknowledged.add(item)

    def join(self) -> None:
        """Return when no request is in flight."""
        for thread in self._threads:
            thread.join()


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start(kind: str, **environment: str) -> Server:
        started.append(Server(tmp_path, kind, **environment))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.mark.parametrize("kind", SERVERS)
def test_every_request_answered_before_a_kill_is_in_sql_once(tmp_path: Path, start: Start, kind: str) -> None:
    server = start(kind)
    buyers = Buyers(server)
    until(lambda: len(buyers.acknowledged) > 150, "events are accepted", 60)
    server.kill()
    buyers.join()
    rows = questlog.open(tmp_path).sql("select item, count(*), min(gold), max(gold) from purchase group by 1").rows()
    assert_promise({item: count for item, count, _, _ in rows}, buyers.acknowledged, buyers.sent, kind)
    assert {(5, 5)} == {(low, high) for _, _, low, high in rows}


@pytest.mark.parametrize("kind", SERVERS)
def test_a_full_disk_answers_503_only_where_an_event_is_recorded(tmp_path: Path, start: Start, kind: str) -> None:
    server = start(kind, QUESTLOG_MIN_FREE_MB=str(2**40), QUESTLOG_RETRY_AFTER_SECONDS="9")
    assert server.ask("POST", "/shop/sword", '{"gold": 5}') == (503, "9")
    assert server.ask("GET", "/healthy") == (200, None)
    assert server.ask("POST", "/nowhere", "{}") == (404, None)
    assert questlog.open(tmp_path).sql("select count(*) from events").rows() == [(0,)]
