"""Takes a project from a laptop to a cluster: its tables are copied, its log forwarded from where they end.

Each event is in the cluster's tables once, because one number per partition of the log says where the copy ends.
That number is the last thing the copy commits, in the floor that the cluster's lander begins with: a record
below it is a repeat there, whoever sends it again, and one above it has not been copied. Until it is committed
nothing is forwarded; until then, and after, the laptop's own tables are only added to.
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
from questlog.promote.compare import Answer, compare, questions
from questlog.promote.copy import CopyTarget, copy_ids, copy_plans, copy_table, refuse_strangers, sources
from questlog.promote.handover import advance, begin
from questlog.promote.prefix import LogPrefix
from questlog.promote.setup import make_topic
from questlog.report.preflight import describe_target

if TYPE_CHECKING:
    from questlog.land import Landed
    from questlog.land.loop import LandingLoop
    from questlog.land.spark.lander import SparkLander
    from questlog.pipeline import ClusterPipeline, EmbeddedPipeline

BEAT_SECONDS = 2.0
COPIED = "copied"
"""In the checkpoint's counts, with the spool's name: how many rows were copied. It marks the hand-over."""
Show = Callable[[int, int, int | None], None]
"""Is told how many rows are done, twice, and of how many."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What came while the tables were copied: how many records, which both sides have landed since."""

    records: int
    through: Position


class Promotion:
    """One promotion under way; it holds both ends, so nobody else lands or forwards meanwhile. Use as a context.

    The game may write to the log all the while.
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
                    str(error), hint="stop questlog up, then promote; the game may go on writing"
                ) from error
            self._spool = stack.enter_context(Spool(self._data, self._embedded.project.log_folder, promoting=True))
            known = self._spool.handover
            if known is not None and known.target != self.target:
                raise QuestlogError(
                    f"this project was promoted to {known.target}",
                    hint="set its settings again, or questlog promote --abandon forgets that",
                )
            with self._alive():
                self._spark: SparkLander = stack.enter_context(self._cluster.lander())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def land(self) -> Landed:
        """Land in the laptop's tables what is logged by now."""
        return self._lander.drain()

    def copy(self, show: Show) -> dict[str, int] | None:
        """Make the cluster hold what the laptop's tables hold; return rows per table, None if it did already.

        1 is it sealed?  2 note where the copy ends  3 copy each table  4 plans, ids  5 seal, in one commit.
        """
        from questlog.land.spark.evolve import adopt_plan

        with self._alive():
            checkpoint = self._spark.take_over()
            known = self._spool.handover
            handover = known or Handover(secrets.token_hex(8), self.target)
            if self._is_sealed(checkpoint):
                if known is None:  # forward.db was deleted; nothing is lost, the checkpoint has it
                    begin(self._spool, handover, {})
                advance(self._spool, "sealed", self._landed(checkpoint))
                return None
            state = load_state(self._catalog)
            if any(
                o > state.checkpoint.get(p, 0) for table in state.tables.values() for p, o in table.position.items()
            ):
                raise QuestlogError("a batch is half landed", hint="questlog land finishes it")
            found, target = sources(state, self._embedded.plan), CopyTarget(self._spark.tables, self._spark.state)
            make_topic(self._cluster.project.settings)
            self._refuse_used(checkpoint)
            refuse_strangers(target, found, handover.id)
            begin(self._spool, Handover(handover.id, self.target), state.checkpoint)
            total, done = sum(source.rows for source in found), 0

            def copied(rows: int) -> None:
                nonlocal done
                done += rows
                show(done, done, total)

            for source in found:
                copy_table(target, source, handover.id, self._embedded.project.settings.query_memory_mb, copied)
            adopt_plan(self._spark.tables, self._spark.state, self._embedded.plan)
            copy_plans(self._spark.state, self._catalog)
            copy_ids(self._spark.state, self._catalog)
            advance(self._spool, "sealing")
            self._seal(checkpoint, state, total)
            advance(self._spool, "sealed")
        return {source.name: source.rows for source in found}

    def catch_up(self) -> CaughtUp:
        """Bring both sides to the same place: what came meanwhile is landed here, forwarded, and landed there."""
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

    def compare(self, through: Position) -> Iterator[Answer]:
        """Ask both sides the same questions, as of *through*: what is logged since is on neither."""
        laptop = self._embedded.engine_over(LogPrefix(self._embedded.log, through))
        rows = {name: table.rows for name, table in load_state(self._catalog).tables.items()}
        tables = sorted({*self._embedded.plan.tables, *rows, QUARANTINE_TABLE})
        with self._alive(), closing(laptop):
            yield from compare(questions(self._embedded.project.root, tables, rows), laptop, self._cluster.engine)

    @contextmanager
    def _alive(self) -> Iterator[None]:
        """Show that the laptop's lander lives while it does not land, or another would take its place."""
        stop, lost = threading.Event(), list[BaseException]()

        def heartbeat() -> None:
            try:
                while not stop.wait(BEAT_SECONDS):
                    self._lander.heartbeat()
            except BaseException as error:
                lost.append(error)

        self._lander.heartbeat()
        thread = threading.Thread(target=heartbeat, name="questlog-promote", daemon=True)
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
        """Return how much of this log the cluster's tables hold."""
        return spool_position(self._spool.name, checkpoint.spools)

    def _is_sealed(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.counts.get(f"{COPIED} {self._spool.name}") is not None

    def _refuse_used(self, checkpoint: Checkpoint) -> None:
        """Raise if the target has landed or holds events: they could not be told apart from ours."""
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
        """Commit the checkpoint: from here on the cluster holds everything below it, and takes what follows."""
        ledger = read_ledger(self._catalog, state.checkpoint)
        counts = {
            "records": ledger.read - ledger.total("damaged"), "lost": ledger.total("damaged"),
            "duplicate": ledger.total("duplicate"),
            f"{COPIED} {self._spool.name}": rows,
        }  # fmt: skip
        spools, plan = spool_sequences(self._spool.name, state.checkpoint), self._embedded.plan.version
        self._spark.state.save(replace(checkpoint, plan=plan, spools=spools, counts=counts))
