"""Ctrl-C and SIGTERM for work that ends in good order.

A signal's handler runs between two steps of the main thread, which may be in the middle of waiting for the very event
that the handler is to set, with its lock in hand: `Event.set` would wait for ever. So a handler only puts a word into a
queue that allows it at any moment, and a thread acts on it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Protocol


class StopSignal(Protocol):
    """Tells work to stop between two steps; `threading.Event` keeps this contract."""

    def is_set(self) -> bool:
        """Return whether to stop."""

    def wait(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds for the signal; return whether it came."""


def when_told(act: Callable[[], object], *numbers: signal.Signals) -> None:
    """Call *act* in a thread of its own whenever one of these signals comes."""
    told: SimpleQueue[None] = SimpleQueue()

    def listen() -> None:
        while True:
            told.get()
            act()

    threading.Thread(target=listen, name="told", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda *_: told.put(None))


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that Ctrl-C and SIGTERM set, once; then they do again what they did before."""
    stop = threading.Event()
    told: SimpleQueue[bool] = SimpleQueue()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(*_: object) -> None:
        told.put(True)
        restore()

    def listen() -> None:
        if told.get():
            stop.set()

    listener = threading.Thread(target=listen, name="told", daemon=True)
    listener.start()
    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
        told.put(False)
        listener.join()
