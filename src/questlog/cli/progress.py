"""What standard error shows of work that takes longer than a second."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Show = Callable[[int, int, int | None], None]
"""To be told events so far, how much is done, and of how much; None if nobody knows."""
_QUIET_SECONDS = 1.0
_LINE_SECONDS = 10.0


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def counting(name: str) -> Iterator[Show]:
    """Show a bar on a terminal, and elsewhere a line now and then."""
    if not _is_terminal():
        yield _lines(name)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[events]:,} events"), TimeRemainingColumn(),
    ]  # fmt: skip
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(name, total=None, events=0)
    started = time.monotonic()

    def show(events: int, done: int, total: int | None) -> None:
        bar.update(task, total=total, completed=done, events=events)
        if time.monotonic() - started > _QUIET_SECONDS:
            bar.start()

    try:
        yield show
    finally:
        bar.stop()


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
    """Show on a terminal for how long *what* has been running, and how to stop it."""
    if not _is_terminal():
        yield
        return
    done = threading.Event()

    def tell() -> None:
        started = time.monotonic()
        while not done.wait(_QUIET_SECONDS):
            sys.stderr.write(f"\r{what} {time.monotonic() - started:.0f} s; Ctrl-C stops it")
            sys.stderr.flush()
        if time.monotonic() - started > _QUIET_SECONDS:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
