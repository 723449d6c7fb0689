"""Stalling clients are disconnected in time with a reason, do not slow a good client, and release their resources."""

import contextlib
import http.client
import json
import resource
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from support.collector_process import Collector
from support.waiting import until

HALF_OPEN, STALLED, SECONDS = 500, 100, 30
QUIET = 300
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nX-Slow: "
STALLED_BODY = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n[" + b" " * 20_000


class GoodClient(threading.Thread):
    """Sends 100 events per second on one connection and records how long each response took."""

    def __init__(self, collector: Collector, at_most: int = 1_000_000) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.faults: list[object] = []
        self.stopping = threading.Event()
        self._collector, self._at_most = collector, at_most
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._collector.host, self._collector.port, timeout=20)
        due = time.monotonic()
        while len(self.seconds) < self._at_most and not self.stopping.wait(max(0, due - time.monotonic())):
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
        self.stopping.set()
        self.join(60)
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


class Abusers(threading.Thread):
    """Stalling clients, each replaced when it is disconnected; half of them send one byte per second."""

    def __init__(self, collector: Collector) -> None:
        super().__init__()
        self.lives: list[float] = []
        self.answers: Counter[bytes] = Counter()
        self.most_open = 0
        self._address = (collector.host, collector.port)
        self._sockets, self._stopping = selectors.DefaultSelector(), threading.Event()
        self._begun: dict[socket.socket, float] = {}
        self.start()

    def run(self) -> None:
        for number in range(HALF_OPEN + STALLED):
            self._begin(number)
        drip = time.monotonic()
        while self._begun:
            self.most_open = max(self.most_open, len(self._begun))
            for key, _ in self._sockets.select(0.1):
                self._receive(key)
            if time.monotonic() > drip:
                drip += 1
                for key in list(self._sockets.get_map().values()):
                    if key.data[0] % 2:
                        with contextlib.suppress(OSError):
                            cast(socket.socket, key.fileobj).send(b"a")
        self._sockets.close()

    def _begin(self, number: int) -> None:
        client = socket.create_connection(self._address, timeout=30)
        client.sendall(HEAD if number < HALF_OPEN else STALLED_BODY)
        self._begun[client] = time.monotonic()
        self._sockets.register(client, selectors.EVENT_READ, (number, bytearray()))

    def _receive(self, key: selectors.SelectorKey) -> None:
        client, (number, received) = cast(socket.socket, key.fileobj), key.data
        try:
            part = client.recv(1 << 16)
        except ConnectionResetError:
            part = b""
        received += part
        if part:
            return
        self.lives.append(time.monotonic() - self._begun.pop(client))
        self.answers[bytes(received[9:12])] += 1
        self._sockets.unregister(client)
        client.close()
        if not self._stopping.is_set():
            self._begin(number)

    def end(self) -> None:
        """Replace no one any more; return once the collector has disconnected everyone."""
        self._stopping.set()
        self.join(120)
        assert not self.is_alive(), f"{len(self._begun)} stalling clients are still connected"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stalled_clients_are_disconnected_and_a_good_client_is_not_delayed(
    tmp_path: Path, many_descriptors: None
) -> None:
    with Collector(tmp_path) as collector:
        parent = collector.process.pid
        (worker,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        usual = quiet_p99(collector)
        descriptors, memory = open_files(worker), resident(worker)
        good, abusers = GoodClient(collector), Abusers(collector)
        assert not good.stopping.wait(SECONDS)
        p99 = good.end()
        abusers.end()
        print(
            f"{len(good.seconds)} good requests in {SECONDS} s: p99 {p99:.4f} s, usually {usual:.4f} s; "
            f"{len(abusers.lives)} abusers, at most {abusers.most_open} at once, longest {max(abusers.lives):.1f} s"
        )
        assert abusers.most_open == HALF_OPEN + STALLED
        assert len(abusers.lives) >= 2 * (HALF_OPEN + STALLED), "each was replaced at least once"
        assert set(abusers.answers) == {b"408"}, "each is given the reason"
        assert max(abusers.lives) < 60
        assert good.faults == []
        assert len(good.seconds) > 10 * SECONDS
        assert p99 < max(1, 4 * usual), "a good client is not delayed"
        until(lambda: open_files(worker) <= descriptors, "the descriptors are released")
        print(f"memory {memory >> 20} MiB, then {resident(worker) >> 20} MiB")
        assert resident(worker) < memory + (6 << 20)
        assert collector.sql("select count(*) from join_guild")[0][0] == len(good.seconds) + QUIET


def quiet_p99(collector: Collector) -> float:
    client = GoodClient(collector, at_most=QUIET)
    client.join(60)
    return client.end()


def open_files(pid: str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def resident(pid: str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
