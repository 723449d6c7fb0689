"""Told to stop, a collector closes the door, finishes what has begun, and ends with 0."""

import signal
import socket
from pathlib import Path

from kit import Collector, read_all, wait_for

BODY = b'{"event_type": "join_guild", "guild": "in flight"}'


def lets_in(collector: Collector) -> bool:
    """Return whether a new client is answered. The kernel may take its connection until the last process has ended."""
    try:
        with socket.create_connection((collector.host, collector.port), timeout=0.5) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(client.recv(100))
    except OSError:
        return False


def test_a_request_that_has_begun_is_answered_and_nobody_else_is_let_in(tmp_path: Path) -> None:
    with Collector(tmp_path) as collector:
        with socket.create_connection((collector.host, collector.port), timeout=20) as client:
            client.sendall(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:9])
            wait_for(lambda: collector.request("GET", "/healthz").status == 200, "what came before this was read")
            collector.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not lets_in(collector), "the door is closed")
            client.sendall(BODY[9:])
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"accepted":1' in answer
        assert collector.process.wait(20) == 0
        assert not lets_in(collector)
        assert collector.sql("select count(*) from join_guild where guild = 'in flight'") == [(1,)]
