"""Listens, counts connections, enforces their deadlines, and shuts down gracefully."""

from __future__ import annotations

import asyncio
import email.utils
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from questlog.collector.http import Handler, Response, refuse
from questlog.collector.http.connection import Connection, Exchange
from questlog.collector.http.limits import LIMITS, Limits
from questlog.errors import QuestlogError

CHECK_SECONDS = 0.2
"""How often deadlines are checked: one pass over all of them costs less than a timer for each."""


class HttpServer:
    """Serves one handler on listening sockets."""

    def __init__(self, handler: Handler, limits: Limits = LIMITS, refused: Callable[[int], None] = lambda _: None):
        self.handler, self.limits = handler, limits
        self.stopping = False
        self.waiting_bytes = 0
        self.connections: set[Connection] = set()
        self.date = b""
        self._on_refused = refused
        self._of_address: Counter[str] = Counter()
        self.now = asyncio.get_running_loop().time

    async def serve(self, sockets: Sequence[socket.socket], should_stop: Callable[[], bool]) -> None:
        """Serve until *should_stop*, then shut down.  1 stop listening  2 finish what has begun  3 close the rest."""
        loop = asyncio.get_running_loop()
        self._check_deadlines()
        listening = [
            await loop.create_server(lambda: Connection(self), sock=each, backlog=_BACKLOG) for each in sockets
        ]
        while not should_stop():
            self._check_deadlines()
            await asyncio.sleep(CHECK_SECONDS)
        for each in listening:
            each.close()
        self.stopping = True
        for connection in list(self.connections):
            connection.stop()
        until = self.now() + self.limits.stop_seconds
        while self.connections and self.now() < until:
            self._check_deadlines()
            await asyncio.sleep(CHECK_SECONDS / 10)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)

    def _check_deadlines(self) -> None:
        self.date = email.utils.formatdate(usegmt=True).encode()
        now = self.now()
        late = [each for each in self.connections if now > each.deadline or now > each.write_deadline]
        for connection in late:
            if now > connection.write_deadline:
                connection.abort()
            else:
                connection.expire()

    # -- the connections' calls -------------------------------------------------------------------

    def admit(self, connection: Connection) -> Response | None:
        """Count a new connection; return a refusal if it exceeds a limit."""
        self.connections.add(connection)
        self._of_address[connection.peer] += 1
        if len(self.connections) > self.limits.max_connections:
            return _full(f"max_connections is {self.limits.max_connections}")
        if self._of_address[connection.peer] > self.limits.max_connections_per_address:
            return _full(f"max_connections_per_address is {self.limits.max_connections_per_address}")
        return None

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that has ended."""
        self.connections.discard(connection)
        self._of_address[connection.peer] -= 1
        if not self._of_address[connection.peer]:
            del self._of_address[connection.peer]

    def release(self, exchange: Exchange) -> None:
        """Subtract a body from `waiting_bytes`."""
        if exchange.early is None:  # otherwise its body was discarded
            self.waiting_bytes -= exchange.size
        exchange.size = 0

    def refused(self, response: Response) -> None:
        """Count a refusal that no handler saw."""
        self._on_refused(response.status)


_BACKLOG = 1024


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """Return *count* sockets that listen on one address; the kernel spreads connections over them.

    The parent opens them before the workers start and keeps them open: connections queued for a worker that was
    killed are served by its successor.
    """
    try:
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise QuestlogError(f"{host} is not an address of this machine: {error}", hint="--host 127.0.0.1") from error
    address: tuple[Any, ...] = resolved
    sockets: list[socket.socket] = []
    try:
        probe = _bind(family, address, shared=False)  # a second program must not share the port unnoticed
        if count == 1:
            sockets.append(probe)
        else:
            address = (address[0], probe.getsockname()[1], *address[2:])
            probe.close()
            sockets += [_bind(family, address, shared=True) for _ in range(count)]
        for each in sockets:
            each.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        for each in sockets:
            each.close()
        raise QuestlogError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            hint="use another --port, or stop the program that has this one",
        ) from error
    return sockets


def _bind(family: int, address: tuple[Any, ...], *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _full(limit: str) -> Response:
    return refuse(503, "busy", f"too many connections: {limit}", "send more events in each request", b"retry-after: 5")
