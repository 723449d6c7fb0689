"""Ctrl-C and SIGTERM for work that stops cleanly.

A signal handler interrupts the main thread, which may be waiting for the very event that the handler wants to set, and
may hold the event's lock: `Event.set` would then block forever. So a handler only puts an item into a `SimpleQueue`,
which is safe at any moment, and a thread acts on it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Protocol


class StopSignal(Protocol):
    """Asks work to stop between two steps; `threading.Event` implements it."""

    def is_set(self) -> bool:
        """Return whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for the signal; return whether it came."""


def on_signal(act: Callable[[], object], *numbers: signal.Signals) -> None:
    """Call *act* in a separate thread whenever one of these signals arrives."""
    received: SimpleQueue[None] = SimpleQueue()

    def listen() -> None:
        while True:
            received.get()
            act()

    threading.Thread(target=listen, name="questlog-signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda *_: received.put(None))


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Return an event that the first Ctrl-C or SIGTERM sets; a second one has its previous effect."""
    stop = threading.Event()
    received: SimpleQueue[bool] = SimpleQueue()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop_once(*_: object) -> None:
        received.put(True)
        restore()

    def listen() -> None:
        if received.get():
            stop.set()

    listener = threading.Thread(target=listen, name="questlog-signals", daemon=True)
    listener.start()
    for number in before:
        signal.signal(number, stop_once)
    try:
        yield stop
    finally:
        restore()
        received.put(False)
        listener.join()
