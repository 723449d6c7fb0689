"""Records the events of one web app: its plan, and its log, opened at the first event."""

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
from questlog.log.worker import EventLoop, LoopCommit
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan import Plan
from questlog.record import decode_record
from questlog.settings import Settings
from questlog.web.background import BackgroundSender, end_on_sigterm
from questlog.web.batch import EventBatch, PreparedPlan
from questlog.web.fields import plain

PLAN_SECONDS = 0.1
"""How far the plan may be behind its file."""
ACKS = ("durable", "background")
_MAX_GROUP_EVENTS = 5_000


class Recorder:
    """Records the events that *app* describes; the keys `QUESTLOG_…` of its *config* are the settings.

    Safe for threads; a forked child opens its own log. *new_plan* is called with each plan before it takes effect.
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
        self._plan: PreparedPlan | None = None
        self._plan_expires = 0.0
        self._put: Callable[[EventBatch], None] | None = None
        self._threads = GroupCommit(self.commit, max_size=_MAX_GROUP_EVENTS)
        self._loops: LoopCommit | None = None

    def check(self) -> None:
        """Raise if the config, the project or its plan is invalid."""
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
        """The app's project, with the config as it was at the first event."""
        if self._pid != os.getpid():
            self._reset()
        if self._pipeline is None:
            with self._lock:
                if self._pipeline is None:
                    self._pipeline = self._open()
        return self._pipeline

    @property
    def plan(self) -> PreparedPlan:
        """The project's plan, at most `PLAN_SECONDS` behind its file."""
        prepared, now = self._plan, time.monotonic()
        if prepared is not None and now < self._plan_expires and self._pid == os.getpid():
            return prepared
        plan = self.pipeline.plan
        if self._plan is None or self._plan.plan is not plan:
            self._new_plan(plan)
            self._plan = PreparedPlan(plan)
        background = self.config["QUESTLOG_ACK"] == "background"
        self._put = self._background().put if background else self._append
        self._plan_expires = now + PLAN_SECONDS
        return self._plan

    def record(self, batch: EventBatch) -> None:
        """Make events durable, or queue them; while a test captures, keep them instead."""
        if self.captures:
            self.captures[-1].take(batch)
        else:
            assert self._put is not None, "a batch has read the plan"
            self._put(batch)

    def _append(self, batch: EventBatch) -> None:
        """Append events together with those of other threads."""
        self._threads.submit(batch, len(batch.bodies))

    def submit(self, loop: EventLoop, batch: EventBatch, done: Callable[[Exception | None], None]) -> None:
        """Append events together with those of other requests, and call *done* on *loop* once they are durable."""
        if self._loops is None:
            with self._lock:
                if self._loops is None:
                    self._loops = LoopCommit(self.commit, name="questlog-append", max_size=_MAX_GROUP_EVENTS)
        self._loops.submit(loop, batch, len(batch.bodies), done)

    def commit(self, group: Sequence[Waiter]) -> None:
        """Append the batches of a group in one step. A batch that cannot be encoded fails alone."""
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
        """Return a list that collects what the app records while it is used as a context manager."""
        return Capture(self)


class Capture(list[dict[str, Any]]):
    """Captured events as dicts. `bad` lists those that do not fit the plan, each with the reason."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self.bad: list[tuple[dict[str, Any], Reject]] = []

    def take(self, batch: EventBatch) -> None:
        """Keep the events of a batch, and validate what would be stored of them."""
        from questlog.shape import validate

        for item in batch.accept():
            if item.receipt.outcome == "accepted":
                body = plain(item.body)
                self.append(body)
                record = decode_record(item.record)
                assert record is not None
                reject = validate(record.raw(), batch.plan.plan).reject
                if reject is not None:
                    self.bad.append((body, reject))

    def __enter__(self) -> Self:
        self._recorder.captures.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.captures.remove(self)
