"""Moves a project from a laptop to a cluster: copies its tables, and forwards its log from where the copy ends.

Each event is in the cluster's tables once, because one sequence per partition of the log marks where the copy ends.
The copy commits these sequences last, in the checkpoint that the cluster's lander starts from. There, a record below
them is a repeat, whichever process sends it again, and a record above them has not been copied. Nothing is forwarded
before that commit. The laptop's own tables only ever grow, before and after it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from questlog.errors import LanderBusy, LogUnavailable, QuestlogError
from questlog.lake.checkpoint import Checkpoint
from questlog.lake.ledger import read_ledger
from questlog.lake.state import LakeState, load_checkpoint, load_state
from questlog.log import Position
from questlog.log.kafka.spool import Handover, Spool
from questlog.log.kafka.wire import spool_position, spool_sequences
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.promote.compare import Comparison, compare, questions
from questlog.promote.copy import CopyTarget, copy_ids, copy_plans, copy_table, refuse_foreign_rows, sources
from questlog.promote.handover import advance, begin
from questlog.promote.prefix import LogPrefix
from questlog.promote.setup import make_topic
from questlog.report.preflight import describe_target

if TYPE_CHECKING:
    from questlog.land import Landed
    from questlog.land.loop import LandingLoop
    from questlog.land.spark.lander import SparkLander
    from questlog.pipeline import ClusterPipeline, EmbeddedPipeline

HEARTBEAT_SECONDS = 2.0
COPIED = "copied"
"""The key in the checkpoint's counts, before the spool's name, of the number of copied rows: it marks the handover."""
Show = Callable[[int, int, int | None], None]
"""Called with the number of rows done, twice, and of how many."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """How many records arrived while the tables were copied; both sides have landed them since, up to `through`."""

    records: int
    through: Position


class Promotion:
    """One promotion, a context manager. It holds both landers and the spool: no other process lands or forwards.

    The game may keep writing to the log.
    """

    def __init__(self, embedded: EmbeddedPipeline, cluster: ClusterPipeline) -> None:
        self._embedded, self._cluster = embedded, cluster
        project = embedded.project
        self._catalog, self._data = project.catalog, project.data
        self.target = describe_target(cluster.project.settings)
        self._stack = ExitStack()

    def __enter__(self) -> Promotion:
        """1 the laptop's lander  2 the spool  3 the cluster's lander, which starts Spark."""
        with ExitStack() as stack:
            try:
                self._lander: LandingLoop = stack.enter_context(self._embedded.lander())
            except LanderBusy as error:
                raise LanderBusy(
                    str(error), hint="stop questlog up, then promote; the game may keep running"
                ) from error
            self._spool = stack.enter_context(Spool(self._data, self._embedded.project.log_folder, promoting=True))
            begun = self._spool.handover
            if begun is not None and begun.target != self.target:
                raise QuestlogError(
                    f"this project was promoted to {begun.target}",
                    hint="restore its settings, or run questlog promote --abandon to cancel that promotion",
                )
            with self._alive():
                self._spark: SparkLander = stack.enter_context(self._cluster.lander())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def land(self) -> Landed:
        """Land in the laptop's tables everything logged so far."""
        return self._lander.drain()

    def copy(self, show: Show) -> dict[str, int] | None:
        """Copy the laptop's tables to the cluster; return the rows per table, or None if they were copied before.

        1 is it sealed?  2 record where the copy ends  3 copy each table  4 copy plans and ids  5 seal, in one commit.
        """
        from questlog.land.spark.evolve import adopt_plan

        with self._alive():
            checkpoint = self._spark.take_over()
            begun = self._spool.handover
            handover = begun or Handover(secrets.token_hex(8), self.target)
            if self._is_sealed(checkpoint):
                if begun is None:  # forward.db was deleted: nothing is lost, the checkpoint has the sequences
                    begin(self._spool, handover, {})
                advance(self._spool, "sealed", self._landed(checkpoint))
                return None
            state = load_state(self._catalog)
            if _is_half_landed(state):
                raise QuestlogError("a batch is half landed", hint="run questlog land to finish it")
            tables, target = sources(state, self._embedded.plan), CopyTarget(self._spark.tables, self._spark.state)
            make_topic(self._cluster.project.settings)
            self._refuse_used(checkpoint)
            refuse_foreign_rows(target, tables, handover.id)
            begin(self._spool, Handover(handover.id, self.target), state.checkpoint)
            total, done = sum(table.rows for table in tables), 0

            def copied(rows: int) -> None:
                nonlocal done
                done += rows
                show(done, done, total)

            for table in tables:
                copy_table(target, table, handover.id, self._embedded.project.settings.query_memory_mb, copied)
            adopt_plan(self._spark.tables, self._spark.state, self._embedded.plan)
            copy_plans(self._spark.state, self._catalog)
            copy_ids(self._spark.state, self._catalog)
            advance(self._spool, "sealing")
            self._seal(checkpoint, state, total)
            advance(self._spool, "sealed")
        return {table.name: table.rows for table in tables}

    def catch_up(self) -> CaughtUp:
        """Bring both sides to the same position: land the new records here, forward them, and land them there."""
        before = self._spool.sent
        self._lander.drain()
        with self._alive():
            through = load_checkpoint(self._catalog)
            log = LogPrefix(self._embedded.log, through)
            self._cluster.forwarder(self._spool, log).drain(threading.Event())
            self._spark.drain()
            checkpoint = self._spark.state.checkpoint()
            self._spool.save_landed(checkpoint.position)
            landed = self._landed(checkpoint)
            missing = {p: o for p, o in through.items() if landed.get(p, 0) != o}
            if missing:
                raise LogUnavailable(
                    f"the cluster has not landed partition(s) {', '.join(map(str, missing))} of the log to their end",
                    hint="run questlog promote again",
                    retry_after=1,
                )
        records = sum(offset - before.get(partition, 0) for partition, offset in through.items())
        return CaughtUp(records, through)

    def compare(self, through: Position) -> Iterator[Comparison]:
        """Ask both sides the same questions as of *through*: neither sees records logged later."""
        laptop = self._embedded.engine_over(LogPrefix(self._embedded.log, through))
        rows = {name: table.rows for name, table in load_state(self._catalog).tables.items()}
        tables = sorted({*self._embedded.plan.tables, *rows, QUARANTINE_TABLE})
        with self._alive(), closing(laptop):
            yield from compare(questions(self._embedded.project.root, tables, rows), laptop, self._cluster.engine)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Send heartbeats for the laptop's lander while it does not land, or another lander would replace it."""
        stop, lost = threading.Event(), list[BaseException]()

        def send_heartbeats() -> None:
            try:
                while not stop.wait(HEARTBEAT_SECONDS):
                    self._lander.heartbeat()
            except BaseException as error:
                lost.append(error)

        self._lander.heartbeat()
        thread = threading.Thread(target=send_heartbeats, name="questlog-promote", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if lost:
            raise lost[0]

    # -- where the copy ends ---------------------------------------------------------------------

    def _landed(self, checkpoint: Checkpoint) -> dict[int, int]:
        """Return the position of the cluster's tables in this log."""
        return spool_position(self._spool.name, checkpoint.spools)

    def _is_sealed(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.counts.get(f"{COPIED} {self._spool.name}") is not None

    def _refuse_used(self, checkpoint: Checkpoint) -> None:
        """Raise if the target's tables or topic already hold events: they could not be distinguished from ours."""
        from questlog.log.kafka.topic import describe_topic

        settings = self._cluster.project.settings
        if checkpoint.spools or checkpoint.counts.get("records"):
            raise QuestlogError(
                f"schema {settings.namespace} already holds events that came through a topic",
                hint="choose another schema: namespace in questlog.toml",
            )
        if records := describe_topic(settings.kafka, settings.topic).records:
            raise QuestlogError(
                f"topic {settings.topic} already holds {records:,} records, and the copy would come after them",
                hint="choose another topic in questlog.toml",
            )

    def _seal(self, checkpoint: Checkpoint, state: LakeState, rows: int) -> None:
        """Commit the checkpoint: from here on the cluster holds everything below it, and lands what follows."""
        ledger = read_ledger(self._catalog, state.checkpoint)
        counts = {
            "records": ledger.read - ledger.total("damaged"), "lost": ledger.total("damaged"),
            "duplicate": ledger.total("duplicate"),
            f"{COPIED} {self._spool.name}": rows,
        }  # fmt: skip
        spools, plan = spool_sequences(self._spool.name, state.checkpoint), self._embedded.plan.version
        self._spark.state.save(replace(checkpoint, plan=plan, spools=spools, counts=counts))


def _is_half_landed(state: LakeState) -> bool:
    positions = [table.position for table in state.tables.values()]
    return any(end > state.checkpoint.get(p, 0) for position in positions for p, end in position.items())
