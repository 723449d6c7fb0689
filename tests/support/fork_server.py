"""Start real processes in milliseconds: import everything once, then fork a child per command.

Python and PyIceberg take about a second to import, so a thousand kills would take an hour. A child of
this process runs the same `main` as the command line does, has its own pid and session, and dies of a
real SIGKILL. Commands come as JSON lines on stdin; when stdin closes, every child is killed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

_PROGRAMS = ("flask.cli", "gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "questlog.cli.collect",
             "questlog.cli.land", "questlog.cli.up", "questlog.cli.sql", "questlog.cli.status")  # fmt: skip


def main() -> None:
    """Serve until stdin closes."""
    _import_everything()
    threads = {Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    strange = threads - {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}
    assert not strange, f"a fork would not be safe with the threads {strange}"
    children: dict[int, int | None] = {}
    _send({"ready": True})
    for line in sys.stdin:
        command = json.loads(line)
        if "argv" in command:
            pid = os.fork()
            if pid == 0:
                sys.exit(_become(command))
            children[pid] = None
            _send({"pid": pid})
        else:
            _send({"code": _reap(command["reap"], children)})
    for pid, code in children.items():
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _import_everything() -> None:
    """Import what a complete walk imports; the walk runs in a child because it starts threads."""
    for name in _PROGRAMS:
        importlib.import_module(name)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        _walk()
        os.write(writing, json.dumps(list(sys.modules)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        names = json.loads(answer.read())
    os.waitpid(pid, 0)
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _walk() -> None:
    """Take one event from HTTP to SQL, so that every late import happens."""
    import flask

    import questlog
    from questlog.flask import Questlog

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "plan.toml").write_text(
            '[game]\nname = "warm"\n[routes]\n"GET /" = "hello"\n[events.hello]\ndescription = "Hello."\n'
        )
        app = flask.Flask("warm")
        Questlog(app, project=folder)
        app.add_url_rule("/", view_func=lambda: "hello")
        assert app.test_client().get("/").status_code == 200
        project = questlog.open(folder)
        with project.lander() as lander:
            lander.drain()
        assert project.sql("select count(*) from hello").rows() == [(1,)]


def _send(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def _reap(pid: int, children: dict[int, int | None]) -> int | None:
    """Return the exit code of *pid*, or None while it runs; the pid is not reused before this call."""
    if children[pid] is None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children[pid] = os.waitstatus_to_exitcode(status)
    return children[pid]


def _become(command: dict[str, Any]) -> int:
    """Become the program of *command*, with its own session, folder, environment, output and mutations."""
    os.setsid()
    output = os.open(command["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    errors = os.open(command["output"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    os.chdir(command["folder"])
    os.environ.update(command["environment"])
    sys.path.insert(0, command["folder"])
    sys.argv = command["argv"]
    for name, argument in command["mutations"].items():
        from support import mutations

        mutations.MUTATIONS[name](argument)
    return _run(Path(sys.argv[0]).name)


def _run(program: str) -> int:
    if program == "gunicorn":
        from gunicorn.app.wsgiapp import run
    elif program == "flask":
        from flask.cli import main as run
    elif program == "answers":
        from support.read_marks import main as run
    else:
        from questlog.cli import main as run
    return int(run() or 0)


if __name__ == "__main__":
    main()
