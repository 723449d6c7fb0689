"""Players that send at a steady rate through every fault, and record which events were acknowledged."""

from __future__ import annotations

import http.client
import random
import threading
import time

PATHS = ["/purchase_a_sword", "/join_guild", "/purchase_a_sword/", "/mistake"]
WEIGHTS = [40, 40, 15, 5]
THREADS = 4


class Players:
    """Sends *rate* events a second until stopped. Use as a context manager."""

    def __init__(self, port: int, *, rate: float, seed: int) -> None:
        self._port, self._every = port, THREADS / rate
        self._acknowledged: list[tuple[float, str]] = []
        self.attempts = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._play, args=(seed, number)) for number in range(THREADS)]

    def __enter__(self) -> Players:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; afterwards no request is in flight."""
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive(), "a request hangs"

    def acknowledged(self, since: float = 0.0) -> set[str]:
        """Return the ids that were answered with 2xx since that `time.time()`."""
        return {event_id for when, event_id in self._acknowledged.copy() if when >= since}

    def _play(self, seed: int, number: int) -> None:
        chance = random.Random(f"{seed}-{number}")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        due, again, count = time.monotonic(), "", 0
        while not self._stop.is_set():
            path = again or chance.choices(PATHS, WEIGHTS)[0]
            if path.endswith("/"):
                count += 1
                path += f"chosen-{seed}-{number}-{count}"
            answered = self._send(connection, path)
            again = path if not answered and "chosen" in path else ""  # only a chosen id may be repeated
            due = max(due + self._every, time.monotonic() - 1)  # do not catch up after an outage
            self._stop.wait(due - time.monotonic() if answered else 0.05)
        connection.close()

    def _send(self, connection: http.client.HTTPConnection, path: str) -> bool:
        self.attempts += 1
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        if response.status == 200:
            self._acknowledged.append((time.time(), body))
        return response.status == 200
