"""The Python client: `questlog.Client(url, key)` keeps events on disk until the collector has them, each once."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from questlog.client.queue import Queue
from questlog.client.sender import Problem, Sender, log_problem
from questlog.client.transport import Transport
from questlog.errors import QuestlogError, QueueFull, QueueUnavailable
from questlog.record import can_be_id, new_id

__all__ = ["Client", "Problem", "QueueFull", "QueueUnavailable"]
LARGEST_EVENT = 1 << 20
_SET_BY_US = ("event_type", "sequence", "sent_time")
_encoder = msgspec.json.Encoder()


class Client:
    """Sends events to a collector, in the background and in batches.

    `track` returns once the event is in the *queue*, a file that survives a power cut. This process, or the next one
    with the same file, sends it until the collector has it. Several processes may share a file. For each event that
    the collector rejects or quarantines, *on_problem* is called in the sending thread; by default it is logged.
    Safe for threads and forks.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        queue: str | Path | None = None,
        player_id: str | None = None,
        session_id: str | None = None,
        on_problem: Callable[[Problem], object] = log_problem,
        max_queue_mb: int = 256,
        flush_seconds: float = 0.5,
        timeout: float = 30.0,
    ) -> None:
        self.player_id, self.session_id = player_id, session_id
        self._transport = Transport(url, key, timeout)
        path = _default_queue(url) if queue is None else Path(queue)
        self._queue = Queue(path.absolute(), max_bytes=max_queue_mb << 20)
        self._sender = Sender(self._queue, self._transport, on_problem, flush_seconds)
        self._closed = False
        if self._queue.last():  # left by an earlier process
            self._sender.wake()

    def __repr__(self) -> str:
        return f"Client({self._transport.url!r}, queue={str(self._queue.path)!r})"

    def track(
        self,
        event: str,
        /,
        *,
        player_id: str | None = None,
        session_id: str | None = None,
        event_id: str | None = None,
        event_time: dt.datetime | None = None,
        **fields: Any,
    ) -> str:
        """Queue *event* on disk and return its id. From then on it cannot be lost.

        Pass an *event_id* if the event may be tracked again: an id counts once. Raises `QueueFull` if the file is at
        its limit and `QueueUnavailable` if it cannot be written; the event is then not queued.
        """
        if self._closed:
            raise QuestlogError("this client was shut down", hint="create a new questlog.Client")
        body = _body(event, fields)
        body["event_id"] = _checked_id(event_id)
        body["event_time"] = _text_of(event_time)
        body |= _given(player_id=player_id or self.player_id, session_id=session_id or self.session_id)
        self._queue.put(_encode(body))
        self._sender.wake()
        return str(body["event_id"])

    def identify(self, player_id: str, **traits: Any) -> str:
        """Set the player of the following events, and queue an event `identify` with the player's traits."""
        self.player_id = player_id
        return self.track("identify", player_id=player_id, **traits)

    def flush(self, timeout: float = 10.0) -> bool:
        """Send now; return whether the collector has every event in the queue, including those of other processes."""
        through, deadline = self._queue.last(), time.monotonic() + timeout
        while self._queue.has_up_to(through):
            self._sender.hurry()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._sender.wait_until_settled(min(left, 0.1))
        return True

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Accept no more events, flush, and stop. Events that are not sent by then stay on disk for the next client."""
        if self._closed:
            return not self._queue.last()
        self._closed = True
        sent = self.flush(timeout)
        self._sender.stop()
        self._queue.close()
        return sent

    def counts(self) -> dict[str, int]:
        """Return how many events are waiting, and the outcomes of all events that this queue ever held."""
        return self._queue.counts()

    @property
    def error(self) -> str:
        """Why events are not being sent at the moment, and what to do; "" if they are."""
        return self._sender.error

    @property
    def trouble(self) -> str:
        """The name of `error` in version 0.1.0."""
        return self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def _body(event: str, fields: dict[str, Any]) -> dict[str, Any]:
    reserved = [name for name in _SET_BY_US if name in fields]
    if reserved:
        raise QuestlogError(f"the client sets {', '.join(reserved)} itself", hint="give the field another name")
    return {"event_type": event, **fields}


def _given(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _checked_id(event_id: str | None) -> str:
    if event_id is None:
        return new_id()
    if not can_be_id(event_id):
        raise QuestlogError(
            f"an event id has 1 to 200 characters: {event_id!r} is not valid", hint="event_id=str(order.id)"
        )
    return event_id


def _text_of(event_time: dt.datetime | None) -> str:
    if event_time is None:
        event_time = dt.datetime.now(dt.UTC)
    elif event_time.tzinfo is None:
        raise QuestlogError("event_time has no time zone", hint="datetime.now(datetime.UTC)")
    return event_time.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _encode(body: dict[str, Any]) -> bytes:
    try:
        encoded = _encoder.encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise QuestlogError(
            f"event {body['event_type']!r} has a field that JSON cannot represent: {error}",
            hint="track() takes strings, numbers, booleans, dates, lists and dicts",
        ) from error
    if len(encoded) > LARGEST_EVENT:
        raise QuestlogError(
            f"event {body['event_type']!r} has {len(encoded)} bytes; the limit is {LARGEST_EVENT}",
            hint="send what happened, not what it happened to",
        )
    return encoded


def _default_queue(url: str) -> Path:
    """Return the default file for programs that run in this folder and send to *url*, with any key."""
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    name = hashlib.sha256(f"{url}\n{Path.cwd()}".encode()).hexdigest()[:16]
    return Path(home, "questlog", f"queue-{name}.db")
