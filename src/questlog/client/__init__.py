"""WHO sends: `questlog.Client(url, key)` keeps events on disk until the collector has them, each once."""

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
from questlog.client.sender import Problem, Sender, tell
from questlog.client.transport import Transport
from questlog.errors import QuestlogError, QueueFull, QueueUnavailable
from questlog.record import can_be_id, new_id

__all__ = ["Client", "Problem", "QueueFull", "QueueUnavailable"]
LARGEST_EVENT = 1 << 20
_SET_BY_US = ("event_type", "sequence", "sent_time")
_encoder = msgspec.json.Encoder()


class Client:
    """Sends events to a collector, in the background and in batches.

    `track` returns once the event is in the *queue*, a file that survives a power cut; from there it is sent
    until the collector has it, by this process or by the next one with the same file. Several processes may
    share a file. What the collector refuses or puts into quarantine is given to *on_problem*, in the sending
    thread; without one it is logged. Safe for threads and forks.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        queue: str | Path | None = None,
        player_id: str | None = None,
        session_id: str | None = None,
        on_problem: Callable[[Problem], object] = tell,
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
        if self._queue.last():  # what an earlier process left
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
        """Queue *event* on the disk and return its id; from now on it cannot be lost.

        *event_id* is for events that may be tracked again: the same id counts once. Raises `QueueFull` when
        the file is at its limit, `QueueUnavailable` when it cannot be written; then nothing was queued.
        """
        if self._closed:
            raise QuestlogError("this client was shut down", hint="make a new questlog.Client")
        body = _body(event, fields)
        body["event_id"] = _checked_id(event_id)
        body["event_time"] = _text_of(event_time)
        body |= _known(player_id=player_id or self.player_id, session_id=session_id or self.session_id)
        self._queue.put(_encode(body))
        self._sender.wake()
        return str(body["event_id"])

    def identify(self, player_id: str, **traits: Any) -> str:
        """Say who plays from now on, and queue an event `identify` with what is known of the player."""
        self.player_id = player_id
        return self.track("identify", player_id=player_id, **traits)

    def flush(self, timeout: float = 10.0) -> bool:
        """Send now; return whether everything tracked so far, by all who share the queue, is with the collector."""
        through, deadline = self._queue.last(), time.monotonic() + timeout
        while self._queue.has_up_to(through):
            self._sender.hurry()
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._sender.wait_until_settled(min(left, 0.1))
        return True

    def shutdown(self, timeout: float = 5.0) -> bool:
        """Take no more events, flush, and stop; what is not sent by then waits on the disk for the next client."""
        if self._closed:
            return not self._queue.last()
        self._closed = True
        sent = self.flush(timeout)
        self._sender.stop()
        self._queue.close()
        return sent

    def counts(self) -> dict[str, int]:
        """Return how many events wait, and what became of all that this queue ever held."""
        return self._queue.counts()

    @property
    def trouble(self) -> str:
        """Why nothing is sent at the moment and what to do; "" while all is well."""
        return self._sender.trouble

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


def _body(event: str, fields: dict[str, Any]) -> dict[str, Any]:
    taken = [name for name in _SET_BY_US if name in fields]
    if taken:
        raise QuestlogError(f"the client itself sets {', '.join(taken)}", hint="give the field another name")
    return {"event_type": event, **fields}


def _known(**values: str | None) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _checked_id(event_id: str | None) -> str:
    if event_id is None:
        return new_id()
    if not can_be_id(event_id):
        raise QuestlogError(f"an event's id has 1 to 200 characters, not {event_id!r}", hint="event_id=str(order.id)")
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
            f"event {body['event_type']!r} has a field that JSON cannot hold: {error}",
            hint="track() takes text, numbers, truth values, dates, lists and dicts",
        ) from error
    if len(encoded) > LARGEST_EVENT:
        raise QuestlogError(
            f"event {body['event_type']!r} has {len(encoded)} bytes; {LARGEST_EVENT} is the most",
            hint="send what happened, not what it happened to",
        )
    return encoded


def _default_queue(url: str) -> Path:
    """Return a file for programs that run in this folder and send to this *url*, whatever their key is."""
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    name = hashlib.sha256(f"{url}\n{Path.cwd()}".encode()).hexdigest()[:16]
    return Path(home, "questlog", f"queue-{name}.db")
