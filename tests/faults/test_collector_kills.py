"""A collector's worker is killed at random moments: every event it acknowledged is in SQL exactly once."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

from support.game_processes import ForkServer, Game, Process, assert_promise
from support.waiting import until

KILLS = int(os.environ.get("QUESTLOG_DRILL", "80"))
SEED = int(os.environ.get("QUESTLOG_SEED", random.randrange(10**6)))
SENDERS = 4


class Sender(threading.Thread):
    """Sends batches of events, retries each until its receipts arrive, and remembers which were acknowledged."""

    def __init__(self, port: int, name: str, seed: int) -> None:
        super().__init__()
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.faults: list[object] = []
        self._port, self._mark, self._chance = port, name, random.Random(seed)
        self._told = threading.Event()
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        number = 0
        while not self._told.is_set():
            marks = [f"{self._mark}-{number + n}" for n in range(self._chance.randrange(1, 20))]
            number += len(marks)
            self.sent.update(marks)
            while not self._told.is_set() and not self._send(connection, marks):
                self._told.wait(0.01)
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, marks: list[str]) -> bool:
        try:
            events = [{"event_type": "join_guild", "event_id": mark} for mark in marks]
            connection.request("POST", "/v1/events", json.dumps(events))
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        if response.status != 200:
            self.faults.append((response.status, body))
            return False
        outcomes = Counter(receipt["outcome"] for receipt in json.loads(body)["receipts"])
        if outcomes["accepted"] + outcomes["duplicate"] != len(marks):
            self.faults.append(outcomes)
        self.acknowledged.update(marks)
        return True

    def stop(self) -> None:
        """Stop sending."""
        self._told.set()
        self.join(60)
        assert not self.is_alive(), "a request hangs"


def test_killing_a_worker_loses_and_duplicates_nothing(fork_server: ForkServer, tmp_path: Path) -> None:
    print(f"\nseed {SEED}: {KILLS} kills")
    game, chance, kills = Game(fork_server, tmp_path, port=low_port()), random.Random(SEED), 0
    senders = [Sender(game.port, f"{SEED}-{n}", SEED + n) for n in range(SENDERS)]
    collector: Process | None = None
    try:
        while kills < KILLS:
            until(lambda: is_free(game.port), "the port is free again")
            argv = ["questlog", "-C", str(game.root), "collect", "--port", str(game.port)]
            collector = fork_server.start(game.root, *argv, environment=game.environment)
            worker = worker_of(collector)
            known = sum(len(sender.acknowledged) for sender in senders)
            if chance.random() < 0.7:  # under load; otherwise perhaps before its first answer
                until(lambda k=known: sum(len(s.acknowledged) for s in senders) > k, "events are acknowledged")
            collector.wait(chance.uniform(0, 0.1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                kills += 1
            collector.kill()
    finally:
        for sender in senders:
            sender.stop()
        if collector is not None:
            collector.kill()
    acknowledged = {mark for sender in senders for mark in sender.acknowledged}
    sent = {mark for sender in senders for mark in sender.sent}
    print(f"{kills} kills, {len(acknowledged)} acknowledged")
    assert [fault for sender in senders for fault in sender.faults] == []
    assert len(acknowledged) > KILLS, "too few acknowledgements to prove anything"
    assert_promise(counted_marks(game), acknowledged, sent, "before landing")
    game.run("land")
    assert_promise(counted_marks(game), acknowledged, sent, "after landing")
    ledger = game.ledger()
    assert ledger["accepted"] == sum(count for outcome, count in ledger.items() if outcome != "accepted")


def worker_of(collector: Process) -> int:
    """Return the worker process, once it exists."""
    children = Path(f"/proc/{collector.pid}/task/{collector.pid}/children")
    until(lambda: collector.wait(0) is not None or (children.exists() and children.read_text().strip()), "a worker")
    assert collector.wait(0) is None, collector.error_output()
    return int(children.read_text().split()[0])


def counted_marks(game: Game) -> Counter[str]:
    import questlog

    with questlog.open(str(game.root)) as pipeline:
        return Counter(mark for (mark,) in pipeline.sql("select event_id from join_guild").rows())


def low_port() -> int:
    """Return a free port below the kernel's ephemeral range, where a client could connect to itself."""
    return next(port for port in random.sample(range(15_000, 30_000), 100) if is_free(port))


def is_free(port: int) -> bool:
    """Return whether a collector could listen there; a killed worker closes its sockets a little after its parent."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True
