"""What one client may cost the collector. Whatever goes beyond is refused, with the limit's name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _limit(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds; each counts for one worker process."""

    max_head_bytes: int = _limit(16 << 10, "Request line and headers together.")
    max_headers: int = _limit(64, "Header lines of a request.")
    max_body_bytes: int = _limit(5 << 20, "A body, as it was sent and once it is inflated.")
    max_event_bytes: int = _limit(256 << 10, "One event.")
    max_events: int = _limit(10_000, "Events of one request.")
    max_waiting_bytes: int = _limit(256 << 20, "All bodies that are being received or wait for the disk.")
    max_connections: int = _limit(10_000, "Open connections.")
    max_connections_per_address: int = _limit(2_000, "Open connections from one address.")
    max_pipelined: int = _limit(32, "Requests of one connection that wait for their answers; more are not read yet.")
    head_seconds: float = _limit(10.0, "From the first byte of a request, or a new connection, to its last header.")
    body_seconds: float = _limit(15.0, "From the last header to the last byte of the body.")
    idle_seconds: float = _limit(75.0, "A connection kept open between requests.")
    write_seconds: float = _limit(15.0, "A client that does not read its answers.")
    linger_seconds: float = _limit(2.0, "How long what a refused client still sends is thrown away before the end.")
    stop_seconds: float = _limit(10.0, "How long requests that have begun may take after SIGTERM.")


LIMITS = Limits()
