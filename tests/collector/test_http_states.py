"""The states of a connection: the table is complete, it is enforced, and a connection's life follows it."""

import asyncio
from typing import Any

import pytest

from questlog.collector.http import Request, Respond, Response
from questlog.collector.http.connection import Connection
from questlog.collector.http.limits import LIMITS
from questlog.collector.http.server import HttpServer
from questlog.collector.http.states import (
    BODY,
    CLOSED,
    CLOSING,
    ENDED,
    HEAD,
    IDLE,
    LINGERING,
    NEXT,
    ConnectionState,
    durations,
)

REQUEST = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    abort = close


class Recorder(Connection):
    """A connection that records its states."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self.states = [self.state]

    def enter(self, state: ConnectionState) -> None:
        super().enter(state)
        self.states.append(state)


class Delayed:
    """Responds on request."""

    def __init__(self) -> None:
        self.due: list[Respond] = []

    def early_response(self, request: Request) -> Response | None:
        return None

    def handle(self, request: Request, respond: Respond) -> None:
        self.due.append(respond)


def connect(handler: Delayed) -> tuple[Recorder, Transport]:
    async def make() -> Recorder:
        return Recorder(HttpServer(handler))

    connection, transport = asyncio.run(make()), Transport()
    connection.connection_made(transport)
    return connection, transport


def test_the_table_has_a_row_for_every_state() -> None:
    assert len(NEXT) == len(durations(LIMITS)) == len(ConnectionState)
    assert set().union(*NEXT) == set(ConnectionState), "every state can be reached"
    assert all(CLOSED in following for state, following in zip(ConnectionState, NEXT, strict=True) if state != CLOSED)
    assert all(NEXT[state] <= ENDED for state in ENDED), "nothing leads back from the end"


def test_a_transition_outside_the_table_is_an_error() -> None:
    connection, _ = connect(Delayed())
    with pytest.raises(AssertionError):
        connection.enter(BODY)


def test_a_request_passes_through_head_and_body_and_back() -> None:
    handler = Delayed()
    connection, transport = connect(handler)
    connection.data_received(REQUEST[:20])
    assert connection.states == [IDLE, HEAD]
    connection.data_received(REQUEST[20:] + b"ab")
    connection.data_received(b"cd" + REQUEST)
    assert connection.states == [
        IDLE,
        HEAD,
        BODY,
        IDLE,
        HEAD,
        BODY,
    ]
    handler.due[0](Response(200))
    assert transport.written.startswith(b"HTTP/1.1 200 ")
    connection.connection_lost(None)
    assert connection.states[-1] is CLOSED


def test_a_refusal_waits_for_the_responses_that_are_due() -> None:
    handler = Delayed()
    connection, transport = connect(handler)
    connection.data_received(REQUEST + b"abcd" + b"nonsense\r\n\r\n")
    assert connection.states[-1] is CLOSING and not transport.written
    handler.due[0](Response(200))
    assert connection.states[-1] is LINGERING
    assert [transport.written.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [1, 1]
    connection.data_received(REQUEST)
    connection.expire()
    assert transport.closed and transport.written.count(b"\r\ndate: ") == 2


def test_a_client_that_closes_its_side_still_gets_its_response() -> None:
    handler = Delayed()
    connection, transport = connect(handler)
    connection.data_received(REQUEST + b"abcd")
    assert connection.eof_received() is True
    handler.due[0](Response(200))
    assert connection.states[-2:] == [CLOSING, LINGERING]
    assert b"connection: close" in transport.written


def test_a_client_that_leaves_in_the_middle_of_a_body_gets_nothing() -> None:
    connection, transport = connect(Delayed())
    connection.data_received(REQUEST + b"ab")
    assert connection.eof_received() is False and not transport.written
    connection.connection_lost(None)
    assert connection.states == [
        IDLE,
        HEAD,
        BODY,
        CLOSED,
    ]
