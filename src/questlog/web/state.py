"""What one web app keeps: its pipeline, opened late, its background sender, and captures of its tests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from questlog.errors import QuestlogError, Reject
from questlog.log.group import GroupCommit, Waiter
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan import Plan
from questlog.settings import Settings
from questlog.web.background import BackgroundSender, end_on_sigterm
from questlog.web.fields import plain
from questlog.web.wiring import Pending, Wiring

LOOK_SECONDS = 0.1
_MOST_EVENTS = 5_000
ACKS = ("durable", "background")


class State:
    """How *app* records, as its *config* says in keys `QUESTLOG_…`. Safe for threads; a forked child starts anew.

    *new_plan* is told of each plan before it is used.
    """

    def __init__(self, app: Any, config: Mapping[str, Any], new_plan: Callable[[Plan], None]) -> None:
        self.app, self.config = app, config
        self._new_plan = new_plan
        self.captures: list[Capture] = []
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pipeline: Pipeline | None = None
        self._sender: BackgroundSender | None = None
        self._wiring: Wiring | None = None
        self._look_again = 0.0
        self._put: Callable[[Pending], None] | None = None
        self._group = GroupCommit(self.commit, max_size=_MOST_EVENTS)

    def check(self) -> None:
        """Raise what is wrong with the config, the project or its plan."""
        ack = self.config["QUESTLOG_ACK"]
        if ack not in ACKS:
            raise QuestlogError(f"QUESTLOG_ACK is {ack!r}", hint=f"use one of {', '.join(ACKS)}")
        _ = self._open().plan
        if ack == "background":
            end_on_sigterm()

    def _open(self) -> Pipeline:
        config = self.config
        names = [row.name for row in fields(Settings)]
        overrides = {
            n: config[f"QUESTLOG_{n.upper()}"] for n in names if config.get(f"QUESTLOG_{n.upper()}") is not None
        }
        if "data" in overrides:
            overrides["data"] = str(overrides["data"])
        return open_pipeline(Path(config["QUESTLOG_PROJECT"]), **overrides)

    @property
    def pipeline(self) -> Pipeline:
        """The app's project as the config says at the first event."""
        if self._pid != os.getpid():
            self._reset()
        if self._pipeline is None:
            with self._lock:
                if self._pipeline is None:
                    self._pipeline = self._open()
        return self._pipeline

    @property
    def wiring(self) -> Wiring:
        """The project's plan, at most `LOOK_SECONDS` behind its file."""
        wiring, now = self._wiring, time.monotonic()
        if wiring is not None and now < self._look_again and self._pid == os.getpid():
            return wiring
        plan = self.pipeline.plan
        if self._wiring is None or self._wiring.plan is not plan:
            self._new_plan(plan)
            self._wiring = Wiring(plan)
        background = self.config["QUESTLOG_ACK"] == "background"
        self._put = self._background().put if background else self._append
        self._look_again = now + LOOK_SECONDS
        return self._wiring

    def record(self, pending: Pending) -> None:
        """Make events durable, or queue them; in a test that captures, keep them instead."""
        if self.captures:
            self.captures[-1].take(pending)
        else:
            assert self._put is not None, "what is recorded has asked for the wiring"
            self._put(pending)

    def _append(self, pending: Pending) -> None:
        """Append events together with those of other threads."""
        self._group.submit(Waiter(pending, len(pending.bodies)))

    def commit(self, group: Sequence[Waiter]) -> None:
        """Append what a group of threads waits for, in one step; an event that cannot be encoded is its own error."""
        records: list[bytes] = []
        for waiter in group:
            try:
                records += waiter.work.records()
            except Exception as error:
                waiter.error = error
        position = self.pipeline.log.append(records)
        for waiter in group:
            waiter.result = position or True

    def _background(self) -> BackgroundSender:
        log = self.pipeline.log
        if self._sender is None:
            with self._lock:
                if self._sender is None:
                    self._sender = BackgroundSender(log)
        return self._sender

    def capture(self) -> Capture:
        """Return a list that takes what the app would record while it is used as a context."""
        return Capture(self)


class Capture(list[dict[str, Any]]):
    """Events that were captured, as dicts; `bad` holds those that do not fit the plan, each with its refusal."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self.bad: list[tuple[dict[str, Any], Reject]] = []

    def take(self, pending: Pending) -> None:
        """Keep events, and judge their records."""
        from questlog.record import decode_record
        from questlog.shape import validate

        for each in pending.judge():
            if each.receipt.outcome == "accepted":
                body = plain(each.body)
                self.append(body)
                record = decode_record(each.record)
                assert record is not None
                reject = validate(record.raw(), pending.wiring.plan).reject
                if reject is not None:
                    self.bad.append((body, reject))

    def __enter__(self) -> Self:
        self._state.captures.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._state.captures.remove(self)
