"""What clients may cost the collector. A request beyond a limit is refused with the limit's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _limit(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Each limit applies to one worker process."""

    max_head_bytes: int = _limit(16 << 10, "Request line and headers together.")
    max_headers: int = _limit(64, "Header lines of a request.")
    max_body_bytes: int = _limit(5 << 20, "A body, both as sent and decompressed.")
    max_event_bytes: int = _limit(256 << 10, "One event.")
    max_events: int = _limit(10_000, "Events in one request.")
    max_waiting_bytes: int = _limit(
        256 << 20,
        "All bodies that are being received or are waiting for the disk, and pipelined requests not parsed yet.",
    )
    max_connections: int = _limit(10_000, "Open connections.")
    max_connections_per_address: int = _limit(2_000, "Open connections from one address.")
    max_pipelined: int = _limit(
        32,
        "Requests of one connection that await responses. "
        "Further ones are not parsed until a response leaves, nor while more than 64 KiB of responses are unread.",
    )
    head_seconds: float = _limit(10.0, "From a request's first byte, or from connecting, to its last header.")
    body_seconds: float = _limit(15.0, "From a request's last header to the last byte of its body.")
    idle_seconds: float = _limit(75.0, "How long a connection may be idle between requests.")
    write_seconds: float = _limit(15.0, "How long a client may leave responses unread.")
    linger_seconds: float = _limit(2.0, "How long a refused client's data is discarded before its connection closes.")
    stop_seconds: float = _limit(10.0, "How long requests in flight may take after SIGTERM.")


LIMITS = Limits()
