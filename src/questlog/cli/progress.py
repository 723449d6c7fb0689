"""Progress on standard error, for work that takes longer than a second."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from questlog.printable import clean, drawing

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

Show = Callable[[int, int, int | None], None]
"""Called with the events so far, the amount done, and the total amount; None if that is unknown."""
_QUIET_SECONDS = 1.0
_LINE_SECONDS = 10.0


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def counting(name: str) -> Iterator[Show]:
    """Show a bar on a terminal after a second, elsewhere a line every ten seconds."""
    if not _is_terminal():
        yield _lines(name)
        return
    started = time.monotonic()
    with ExitStack() as stack:
        bar: ProgressBar[None] | None = None
        screen = drawing(sys.stderr)

        def show(events: int, done: int, total: int | None) -> None:
            nonlocal bar
            if bar is None:
                if time.monotonic() - started < _QUIET_SECONDS:
                    return
                steps: Iterator[None] = (None for _ in ())  # without a length the bar only shows that work goes on
                bar = stack.enter_context(click.progressbar(steps, length=total, label=clean(name), file=screen))
            bar.label, bar.length = f"{clean(name)}: {events:,} events", total
            bar.update(done - bar.pos)

        yield show


def _lines(name: str) -> Show:
    last = time.monotonic()

    def show(events: int, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_SECONDS:
            last = time.monotonic()
            share = f", {100 * done // max(1, total)} %" if total else ""
            click.echo(f"{name}: {events:,} events{share}", err=True)

    return show


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """On a terminal, show for how long *what* has been running, and how to stop it."""
    if not _is_terminal():
        yield
        return
    done = threading.Event()

    def count() -> None:
        started, screen = time.monotonic(), drawing(sys.stderr)
        while not done.wait(_QUIET_SECONDS):
            screen.write(f"\r{what} {time.monotonic() - started:.0f} s; Ctrl-C stops it")
            screen.flush()
        if time.monotonic() - started > _QUIET_SECONDS:
            screen.write("\r\x1b[K")
            screen.flush()

    counter = threading.Thread(target=count, daemon=True)
    counter.start()
    try:
        yield
    finally:
        done.set()
        counter.join()
