"""The game's Iceberg tables and the lander's own: what each holds, and each commit with that in it."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from questlog.errors import LakeUnavailable, LanderReplaced
from questlog.lake.parquet import METRICS, aligned, parquet_bytes, split_by_day
from questlog.land.spark.catalog import CATALOG
from questlog.land.spark.commits import Commits, File
from questlog.land.spark.fence import Fence, Overtaken, replaced
from questlog.land.spark.ids import DAY_MS, HOUR_MS, split_ids
from questlog.land.spark.states import Floor, floor_of, floor_state, holds, states, text_of
from questlog.land.spark.workers import Target
from questlog.log import Position
from questlog.plan import Plan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COPIED = "copied"
"""In a table's state: of which copy its rows are; in the floor's counts: how many rows were copied in all."""
COMMITS_AT_ONCE = 4
CARRIES = 10
"""How often upkeep says a table's state again until the stream has not just said a newer one."""
PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.distribution-mode": "none",
    "write.spark.fanout.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "commit.manifest.min-count-to-merge": "10",
}
"""A query opens every manifest before it begins: a hundred, which Iceberg lets come together, take Presto a second."""


class SparkTables:
    """The game's tables in one namespace of a catalog, and the lander's own in `<namespace>_state`."""

    def __init__(self, spark: SparkSession, namespace: str) -> None:
        from pyspark.java_gateway import ensure_callback_server_started

        self.spark, self.namespace = spark, namespace
        self.own = f"{namespace}_state"
        self.epoch = 0
        ensure_callback_server_started(spark.sparkContext._gateway)  # Java asks our fences
        self._commits = Commits(spark._jvm)
        self._opened: dict[tuple[str, str], Any] = {}
        self._fences: dict[tuple[str, str], Fence] = {}

    def open(self) -> Floor:
        """Make the lander's own tables, take over, and return the floor."""
        for name in (self.namespace, self.own):
            self.spark.sql(f"create namespace if not exists {CATALOG}.{name}")
        ids = "event_id string, part int, offset bigint, received_ms bigint"
        self._make(self.own, "progress", ids, f"partitioned by (truncate({DAY_MS}, received_ms))")
        self._make(self.own, "plans", "version string, text string")
        while True:
            floor = self.floor()
            self.epoch = floor.epoch + 1
            self._fences.clear()
            try:
                self.save(floor, fence=Fence(self.epoch, claims=True))
            except LanderReplaced:  # who starts in the same moment was quicker; we come after it
                continue
            return self.floor()

    def twin(self) -> SparkTables:
        """Return the same tables for another thread of this lander: Iceberg's own are not for two at once."""
        other = SparkTables(self.spark, self.namespace)
        other.epoch = self.epoch
        return other

    def take_over(self, names: Collection[str]) -> dict[str, tuple[Position, str]]:
        """Commit our epoch to the tables, so that no predecessor's commit can follow; return what they hold then."""
        with ThreadPoolExecutor(COMMITS_AT_ONCE) as pool:
            list(pool.map(self._take_over, names))
        return self.positions(names)

    def _take_over(self, name: str) -> None:
        found = states(self.metadata(self.namespace, name))
        if not found or found[-1].get("epoch", 0) != self.epoch:
            self._append(self.namespace, name, (), self._state(*holds(found)))

    def _make(self, namespace: str, name: str, columns: str, split: str = "") -> None:
        table = f"{CATALOG}.{namespace}.{name}"
        made = f"create table if not exists {table} ({columns}) using iceberg {split}"
        self.spark.sql(f"{made} {table_properties(columns)}")

    # -- state -----------------------------------------------------------------------------------

    def floor(self) -> Floor:
        """Return the newest floor: positions, sequences and counts only grow."""
        return floor_of(states(self.metadata(self.own, "progress")))

    def positions(self, names: Collection[str] | None = None) -> dict[str, tuple[Position, str]]:
        """Return what each table holds, the maximum over all its snapshots, and the plan of the last one."""
        names = self.names() if names is None else names
        return {name: holds(states(self.metadata(self.namespace, name))) for name in names}

    def names(self) -> list[str]:
        """Return the names of the game's tables."""
        rows = self.spark.sql(f"show tables in {CATALOG}.{self.namespace}").collect()
        return sorted(row.tableName for row in rows)

    def metadata(self, namespace: str, name: str) -> Any:
        """Return a table's metadata as it is now, in Iceberg's JSON: one trip to the JVM for all of it."""
        jvm: Any = self.spark._jvm
        return json.loads(
            jvm.org.apache.iceberg.TableMetadataParser.toJson(self._operations(namespace, name).current())
        )

    def java(self, namespace: str, name: str) -> Any:
        """Return Iceberg's own table; opened once, it sees what others commit when it is refreshed."""
        if (namespace, name) not in self._opened:
            jvm: Any = self.spark._jvm
            self._opened[namespace, name] = jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable(
                self.spark._jsparkSession, f"{CATALOG}.{namespace}.{name}"
            )
        return self._opened[namespace, name]

    def written_ms(self, namespace: str, name: str) -> int:
        """Return when the table's newest metadata was written, by the clock of who dates its files."""
        jvm: Any = self.spark._jvm
        path = jvm.org.apache.hadoop.fs.Path(self._operations(namespace, name).current().metadataFileLocation())
        files = path.getFileSystem(self.spark._jsc.hadoopConfiguration())
        return int(files.getFileStatus(path).getModificationTime())

    def forget(self) -> None:
        """Open every table anew: it may have been dropped and made again."""
        self._opened.clear()

    def _operations(self, namespace: str, name: str) -> Any:
        table = self.java(namespace, name)
        table.refresh()
        return table.operations()

    def remembered(self, version: str) -> str | None:
        """Return the text of a plan that has landed here."""
        rows = self.spark.table(f"{CATALOG}.{self.own}.plans").where(f"version = '{version}'").collect()
        return rows[0].text if rows else None

    def remember(self, plan: Plan) -> None:
        """Keep the plan's text: a batch is finished under the plan that began it."""
        self.remember_text(plan.version, plan.text)

    def remember_text(self, version: str, text: str) -> None:
        """Keep a plan's text, whether it can be read today or not."""
        if self.remembered(version) is None:
            rows = pa.table({"version": [version], "text": [text]})
            self._append(self.own, "plans", self._files(self.own, "plans", rows), None)

    def know(self, seen: pa.Table) -> None:
        """Keep ids that clients chose, seen elsewhere than in the topic; the floor stays where it is."""
        self._append(self.own, "progress", self._files(self.own, "progress", seen), None)

    def ids(self, hours: float) -> DataFrame:
        """Return the ids that clients chose, as far back as `oldest_id` says."""
        return self.spark.table(f"{CATALOG}.{self.own}.progress").where(f"received_ms >= {self.oldest_id(hours)}")

    def oldest_id(self, hours: float) -> int:
        """Return from when on ids count: *hours* and a day behind the newest, by the events' time, not by now.

        What waits in a spool or a topic is older than now, and its repeats are older too. A server whose clock is
        ahead does not make the ids of all others old.
        """
        newest = min(self._ids_between()[1], time.time_ns() // 1_000_000)
        return int(newest - (hours + 24) * HOUR_MS)

    def forget_ids(self, hours: float) -> int:
        """Take out the days of ids that `ids` does not return any more; return up to when. Raises `LanderReplaced`."""
        day = self.oldest_id(hours) // DAY_MS * DAY_MS
        table = self.java(self.own, "progress")
        table.refresh()
        if self._ids_between()[0] < day and not table.spec().isUnpartitioned():
            self._commits.delete(table, "received_ms", day, Fence(self.epoch))
        return day

    def _ids_between(self) -> tuple[int, int]:
        """Return when the oldest and the newest of the ids were received."""
        found = self.spark.sql(f"select min(received_ms), max(received_ms) from {CATALOG}.{self.own}.progress")
        oldest, newest = found.collect()[0]
        return (0, 0) if newest is None else (oldest, newest)

    # -- commits ---------------------------------------------------------------------------------

    def adopt(self, plan: Plan) -> dict[str, Target]:
        """Make the plan's tables, grow those that are there, and return how rows of each are written."""
        from questlog.land.spark.growth import follow_plan  # here, so that a worker need not have PyIceberg

        targets = follow_plan(self, plan)
        self.remember(plan)
        return targets

    def commit(self, table: str, files: Sequence[File], through: Position, plan: str) -> None:
        """Add *files* and remember *through* in one snapshot; raise `LanderReplaced` if another lander took over."""
        state = self._state(through, plan)
        self._append(self.namespace, table, files, state)

    def _state(self, position: Position, plan: str) -> Mapping[str, Any]:
        return {"position": {str(p): o for p, o in position.items()}, "plan": plan, "epoch": self.epoch}

    def save(self, floor: Floor, seen: pa.Table | None = None, fence: Fence | None = None) -> None:
        """Move the floor, with the ids that clients chose, in one snapshot; raise `LanderReplaced` as `commit` does."""
        state = floor_state(replace(floor, epoch=self.epoch))
        self._append(self.own, "progress", self._files(self.own, "progress", seen), state, fence)

    def carry(self, namespace: str, name: str, marks: Mapping[str, int]) -> None:
        """Say the table's state again, with *marks*: the snapshots that said it may then be forgotten.

        Never is an older state said on top of a newer one. Raises `LanderReplaced` as `commit` does.
        """
        for _ in range(CARRIES):
            found = states(self.metadata(namespace, name))
            if not found:
                return
            again = floor_state(replace(floor_of(found), epoch=self.epoch))
            state = again if namespace == self.own else self._state(*holds(found))
            try:
                after = Fence(self.epoch, after=text_of(found[-1]))
                self._append(namespace, name, (), {**state, **marks}, after)
            except Overtaken:
                continue
            return
        raise LakeUnavailable(f"table {name} moves on faster than its state can be said again", retry_after=60)

    def check(self) -> None:
        """Raise `LanderReplaced` if another lander took over: where there is no commit that would say so."""
        newest = max((state["epoch"] for state in states(self.metadata(self.own, "progress"))), default=0)
        if newest > self.epoch:
            raise replaced(newest, self.epoch)

    def _append(
        self,
        namespace: str,
        name: str,
        files: Sequence[File],
        state: Mapping[str, Any] | None,
        fence: Fence | None = None,
    ) -> None:
        fence = fence or self._fences.setdefault((namespace, name), Fence(self.epoch))
        text = None if state is None else text_of(state)
        self._commits.append(self.java(namespace, name), files, text, fence)

    def _files(self, namespace: str, name: str, rows: pa.Table | None) -> list[File]:
        """Return rows that are here, not in a worker, as files; the lander's own tables have no days."""
        from questlog.land.spark.growth import target_of

        if rows is None or not rows.num_rows:
            return []
        rows = aligned(rows, target_of(self.metadata(namespace, name)).schema)
        split = split_by_day if namespace != self.own else split_ids if name == "progress" else _whole
        parts = split(rows)
        return [File(day, part.num_rows, parquet_bytes(part)) for day, part in parts]

    # -- copies ----------------------------------------------------------------------------------

    def create(self, statement: str, *, unless_there: bool = False) -> None:
        """Make a table of the game as *statement* says, with the properties that all of them have."""
        if unless_there:
            statement = statement.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
        self.spark.sql(f"use {CATALOG}.{self.namespace}")
        self.spark.sql(f"{statement}\n{table_properties(statement)}")

    def copy(self, table: str, rows: pa.Table, plan: str, copied: Mapping[str, Any]) -> None:
        """Add rows that were landed elsewhere, and remember of which copy they are; no position of the topic moves."""
        self.check()
        state = {"position": {}, "plan": plan, "epoch": self.epoch, COPIED: copied}
        self._append(self.namespace, table, self._files(self.namespace, table, rows), state)

    def copied(self, table: str) -> list[Mapping[str, Any]]:
        """Return what each `copy` into the table remembered."""
        return [state[COPIED] for state in states(self.metadata(self.namespace, table)) if COPIED in state]

    def records(self, table: str) -> int:
        """Return how many rows the table has."""
        snapshot = self._operations(self.namespace, table).current().currentSnapshot()
        return 0 if snapshot is None else int(snapshot.summary().get("total-records"))

    def columns(self, table: str) -> list[str]:
        """Return the names of the table's columns."""
        return list(self.spark.table(f"{CATALOG}.{self.namespace}.`{table}`").columns)

    def drop(self, table: str) -> None:
        """Forget the table and its files."""
        self.check()
        self.spark.sql(f"drop table {CATALOG}.{self.namespace}.`{table}` purge")
        for known in (self._opened, self._fences):
            known.pop((self.namespace, table), None)


def _whole(rows: pa.Table) -> list[tuple[None, pa.Table]]:
    return [(None, rows)]


def table_properties(statement: str) -> str:
    """Return how a table is written, as SQL; *statement* names its columns."""
    kept = {key: text for key, text in METRICS.items() if ".column." not in key or key.rsplit(".", 1)[1] in statement}
    said = ", ".join(f"'{key}' = '{text}'" for key, text in {**PROPERTIES, **kept}.items())
    return f"tblproperties ({said})"
