"""On SIGTERM a collector stops listening, finishes requests in flight and exits with 0; the next can start at once."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.collector_process import Collector, read_all
from support.ports import free_port
from support.waiting import until

BODY = b'{"event_type": "join_guild", "guild": "in flight"}'
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


@contextmanager
def in_flight(collector: Collector) -> Iterator[socket.socket]:
    """Start a request of which the collector has read only a part."""
    with socket.create_connection((collector.host, collector.port), timeout=20) as client:
        client.sendall(HEAD.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 "), "the headers were read"
        client.sendall(BODY[:9])
        yield client


def is_refused(collector: Collector) -> bool:
    """Return whether the kernel refuses new connections, so that no client waits for a process that is ending."""
    try:
        socket.create_connection((collector.host, collector.port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize(
    ("command", "options"),
    [("collect", ["--port", "{port}"]), ("collect", ["--port", "{port}", "--workers", "3"]), ("up", [])],
    ids=["one worker", "three workers", "up"],
)
def test_a_request_in_flight_is_finished_while_new_connections_are_refused(
    tmp_path: Path, command: str, options: list[str]
) -> None:
    """The next collector on the same address need not wait for this one's last response."""
    port = free_port()
    options = [option.format(port=port) for option in options]
    environment: dict[str, Any] = os.environ | {"QUESTLOG_COLLECT_PORT": str(port)}
    with Collector(tmp_path, *options, command=command, environment=environment) as collector:
        with in_flight(collector) as client:
            collector.process.send_signal(signal.SIGTERM)
            until(lambda: is_refused(collector), "new clients are refused")
            assert collector.process.poll() is None, "it waits for the request in flight"
            with Collector(tmp_path / "next", "--port", str(port)) as successor:
                assert successor.send({"event_type": "join_guild"}).status == 200
            client.sendall(BODY[9:])
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"accepted":1' in answer
        assert collector.process.wait(60) == 0
        assert collector.sql("select count(*) from join_guild where guild = 'in flight'") == [(1,)]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_after_a_kill_the_next_collector_can_use_the_same_port_at_once(tmp_path: Path, workers: str) -> None:
    """The workers of a killed collector end when they notice its death, and hold the port for some milliseconds."""
    options = ("--port", str(free_port()), "--workers", workers)
    for number in range(2):
        with Collector(tmp_path, *options) as collector:
            worker = children_of(collector)[0]
            os.kill(worker, signal.SIGSTOP)  # as a busy machine does: it sees only later that it has to end
            collector.stop(signal.SIGKILL)
            waker = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {worker}"])
            with Collector(tmp_path, *options) as successor:
                assert successor.send({"event_type": "join_guild", "guild": str(number)}).status == 200
            waker.wait()
    with Collector(tmp_path, *options) as collector:
        assert collector.sql("select count(*) from join_guild") == [(2,)]


def test_a_port_in_use_is_reported_with_a_hint(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        Path(tmp_path, "plan.toml").write_text("")
        command = ["-m", "questlog", "-C", str(tmp_path), "collect", "--port", str(other.getsockname()[1])]
        ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=180)
    assert ran.returncode == 1
    assert "in use" in ran.stderr and "another --port" in ran.stderr and "Traceback" not in ran.stderr
    assert "waiting" in ran.stderr, "it reports why it does not exit at once"


def children_of(collector: Collector) -> list[int]:
    children = Path(f"/proc/{collector.process.pid}/task/{collector.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]
