"""The states of a connection, what may follow each, and how long each may last."""

from __future__ import annotations

from enum import IntEnum

from questlog.collector.http.limits import Limits

NEVER = float("inf")


class ConnectionState(IntEnum):
    """What a connection is doing. The last three are its end: nothing that arrives then is parsed."""

    IDLE = 0
    """No request is being received; responses may still be due."""
    HEAD = 1
    """Between a request's first byte and its last header."""
    BODY = 2
    """Between a request's last header and the last byte of its body."""
    CLOSING = 3
    """The last response is known (a refusal, or the client has closed its side); earlier ones may still be due."""
    LINGERING = 4
    """The last response is sent; what still arrives is discarded, for closing now would reset the connection."""
    CLOSED = 5
    """The transport is gone."""

    __hash__ = int.__hash__  # Enum's own hashes the name, in Python, at each look-up in a set


IDLE, HEAD, BODY, CLOSING, LINGERING, CLOSED = (
    ConnectionState  # `ConnectionState.IDLE` costs 50 ns each time, and a request asks 12 times
)
ENDED = frozenset({CLOSING, LINGERING, CLOSED})
NEXT: tuple[frozenset[ConnectionState], ...] = (
    frozenset({HEAD}) | ENDED,  # after IDLE
    frozenset({BODY}) | ENDED,  # after HEAD
    frozenset({IDLE}) | ENDED,  # after BODY
    frozenset({LINGERING, CLOSED}),  # after CLOSING
    frozenset({CLOSED}),  # after LINGERING
    frozenset(),  # after CLOSED
)
"""ConnectionState -> the states that may follow. `Connection.enter` asserts it."""


def durations(limits: Limits) -> tuple[float, ...]:
    """Return for each state how many seconds a connection may stay in it.

    IDLE has no limit here: a response may have to wait for the disk, and `idle_seconds` starts once no response
    is due.
    """
    return (NEVER, limits.head_seconds, limits.body_seconds, NEVER, limits.linger_seconds, NEVER)
