"""Clients that stall: closed in time, told why, and unnoticed by a good client; all they took comes back."""

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit import Collector, read_all, wait_for

HALF_OPEN, STALLED = 500, 100
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Slow: "
STALLED_BODY = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n[" + b" " * 20_000


class GoodClient(threading.Thread):
    """Sends 100 events a second, on one connection, and notes how long each answer took."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.faults: list[object] = []
        self._collector, self._told = collector, threading.Event()
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._collector.host, self._collector.port, timeout=20)
        due = time.monotonic()
        while not self._told.wait(max(0, due - time.monotonic())):
            began = time.monotonic()
            try:
                connection.request("POST", "/v1/events", json.dumps({"event_type": "join_guild", "guild": "good"}))
                response = connection.getresponse()
                response.read()
                if response.status != 200:
                    self.faults.append(response.status)
            except OSError as error:
                self.faults.append(error)
                connection.close()
            self.seconds.append(time.monotonic() - began)
            due += 0.01
        connection.close()

    def end(self) -> float:
        """Stop; return the 99th percentile in seconds."""
        self._told.set()
        self.join(30)
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_half_open_heads_and_stalled_bodies_are_closed_and_a_good_client_goes_on(
    tmp_path: Path, many_descriptors: None
) -> None:
    with Collector(tmp_path) as collector:
        parent = collector.process.pid
        (worker,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        usual = quiet_p99(collector)
        descriptors, memory = open_files(worker), resident(worker)
        good, began = GoodClient(collector), time.monotonic()
        abusers = [stall(collector, HEAD) for _ in range(HALF_OPEN)] + [
            stall(collector, STALLED_BODY) for _ in range(STALLED)
        ]
        answers = [read_all(each)[9:12] for each in abusers]  # each returns when the server closes
        lasted = time.monotonic() - began
        for each in abusers:
            each.close()
        p99 = good.end()
        print(f"{len(good.seconds)} good requests, p99 {p99:.4f} s, usual {usual:.4f} s; abusers lasted {lasted:.1f} s")
        assert {b"408"} == set(answers), "each abuser hears why"
        assert lasted < 20
        assert good.faults == []
        assert len(good.seconds) > 500
        assert p99 < max(0.1, 5 * usual), "a machine that is busy with other things is slow without abusers too"
        wait_for(lambda: open_files(worker) <= descriptors + 1, "descriptors are back")
        assert resident(worker) < memory + (16 << 20)
        assert collector.sql("select count(*) from join_guild")[0][0] >= len(good.seconds)


def quiet_p99(collector: Collector) -> float:
    client = GoodClient(collector)
    wait_for(lambda: len(client.seconds) >= 200, "a good client alone")
    return client.end()


def stall(collector: Collector, data: bytes) -> socket.socket:
    client = socket.create_connection((collector.host, collector.port), timeout=30)
    client.sendall(data)
    return client


def open_files(pid: str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
