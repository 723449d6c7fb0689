"""Reads a part of the topic again, under the current plan, and adds to the tables the rows that they lack.

A record is identified by its id and received time, which never change, wherever it is read from. So a backfill that is
killed and run again adds what is still missing. One that runs alongside the lander does not interfere with it: it ends
at the lander's checkpoint.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from questlog.backfill import BackfillResult
from questlog.backfill.bounds import count_between, slices
from questlog.errors import LanderFenced, QuestlogError
from questlog.lake.parquet import aligned
from questlog.land.landed_time import with_landed_time
from questlog.land.spark.commits import IcebergCatalog
from questlog.land.spark.evolve import adopt_plan
from questlog.land.spark.session import CATALOG
from questlog.land.spark.source import TopicSource
from questlog.land.spark.state import CHECKPOINTS, LanderState
from questlog.land.spark.tables import SparkTables
from questlog.land.spark.workers import ROWS, BackfillTask, shape_again
from questlog.log import Position
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.shape import Occurrence
from questlog.stopping import StopSignal

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CLAIM_PROPERTY = "questlog.backfill-claim"
"""The property of the lander's namespace that names the newest backfill: only that one may write."""
_OLD_CLAIM = "questlog.backfill"
"""The same property up to version 0.1; still written, so that a running backfill of that version is fenced too."""
ATTEMPTS = 5
"""The number of attempts to remove rows from quarantine while the lander merges the files they are in."""
_DELETES = {"write.delete.mode": "copy-on-write", "write.delete.isolation-level": "snapshot"}
_IDS = pa.schema([("event_id", pa.string()), ("received_time", pa.timestamp("us"))])

logger = logging.getLogger("questlog.backfill")
Key = tuple[str, int]
"""Id and received microseconds of a record."""


class MissingRows:
    """Adds missing rows to the tables of one namespace. One backfill works at a time: a newer one fences it."""

    def __init__(self, spark: SparkSession, namespace: str, plan: Plan, source: TopicSource, *, records: int) -> None:
        catalog = IcebergCatalog(spark)
        self._tables, self._state = SparkTables(catalog, namespace), LanderState(catalog, namespace)
        self._spark, self._plan, self._source, self._records = spark, plan, source, records
        self._claim = uuid.uuid4().hex[:12]
        self._spools: dict[str, int] = {}
        self.result = BackfillResult()

    def begin(self) -> Position:
        """Take over from an older backfill, evolve the tables to the plan; return where the lander's part begins."""
        namespace = self._state.namespace
        if not self._spark.sql(f"show namespaces in {CATALOG} like '{namespace}'").collect():
            raise QuestlogError(
                f"nothing has landed in namespace {self._tables.namespace} yet",
                hint="run questlog land; --into NAME creates new tables",
            )
        properties = ", ".join(f"'{key}' = '{self._claim}'" for key in (CLAIM_PROPERTY, _OLD_CLAIM))
        self._spark.sql(f"alter namespace {CATALOG}.{namespace} set properties ({properties})")
        adopt_plan(self._tables, self._state, self._plan)
        self._allow_deletes()
        return self._state.checkpoint().position

    def add(
        self, first: Position, until: Position, stop: StopSignal, shown: Callable[[int, int], None]
    ) -> BackfillResult:
        """Add the missing rows between the bounds; a stop waits for the slice in progress.

        *shown* is called with the number of records read and of offsets left.
        """
        for begin, end in slices(first, until, self._records):
            if stop.is_set():
                break
            self._slice(self._source.part(self._spark, begin, end))
            shown(self.result.records, count_between(end, until))
        return self.result

    def _slice(self, frame: DataFrame) -> None:
        """1 shape  2 find existing rows  3 add events  4 remove them from quarantine  5 add to quarantine, last.

        In this order a crash at worst leaves an event both in its table and in quarantine, which the next run repairs.
        """
        started = time.monotonic()
        counts, rows = self._shape(frame)
        if not rows:
            return
        events = {name: table for name, table in rows.items() if name != QUARANTINE_TABLE}
        in_tables, in_quarantine = self._held(rows.values())
        held = set(in_tables)
        now_ms = time.time_ns() // 1_000_000
        self._check_claim()
        for name, table in sorted(events.items()):
            new = self._new(table, held)
            if new.num_rows:
                self._add(name, with_landed_time(new, now_ms))
                self._count(name, new.num_rows)
        landed = {key for table in events.values() for key in _keys(table)}
        if cleared := landed & in_quarantine:
            self._clear(cleared)
        if QUARANTINE_TABLE in rows:
            new = self._new(rows[QUARANTINE_TABLE], held | in_quarantine)
            if new.num_rows:
                self._add(QUARANTINE_TABLE, new)
                self._count(QUARANTINE_TABLE, new.num_rows)
        logger.info(
            "stage=backfill records=%d rows=%d cleared=%d ms=%d",
            counts["records"], sum(t.num_rows for t in rows.values()), len(cleared),
            (time.monotonic() - started) * 1000,
        )  # fmt: skip

    def _count(self, name: str, rows: int) -> None:
        self.result.rows = {**self.result.rows, name: self.result.rows.get(name, 0) + rows}

    def _new(self, table: pa.Table, held: set[Key]) -> pa.Table:
        """Return the rows whose record is not in *held*, and add those to it."""
        keep = []
        for key in _keys(table):
            keep.append(key not in held)
            held.add(key)
        self.result.held += keep.count(False)
        return table.filter(pa.array(keep, pa.bool_()))

    # -- shape -----------------------------------------------------------------------------------

    def _shape(self, frame: DataFrame) -> tuple[dict[str, int], dict[str, pa.Table]]:
        """Shape each of the topic's partitions in its own worker; a second time if ids were first seen elsewhere."""
        shaped = self._collect(frame, {})
        if seen := self._seen_elsewhere([each for counts, _ in shaped for each in counts["seen"]]):
            shaped = self._collect(frame, seen)
        totals = {name: sum(counts[name] for counts, _ in shaped) for name in ("records", "duplicate")}
        for counts, _ in shaped:
            self._spools |= {n: s for n, s in counts["spools"].items() if s > self._spools.get(n, 0)}
        self.result.records += totals["records"]
        self.result.duplicates += totals["duplicate"]
        names = {name for _, rows in shaped for name in rows}
        parts = {name: [rows[name] for _, rows in shaped if name in rows] for name in names}
        return totals, {name: pa.concat_tables(tables) for name, tables in parts.items()}

    def _collect(self, frame: DataFrame, seen: Mapping[str, Occurrence]) -> list[tuple[Any, dict[str, pa.Table]]]:
        """Return the counts and the rows of each table from each worker."""
        task = BackfillTask(self._plan.text, self._spools, seen)
        shaped: list[tuple[Any, dict[str, pa.Table]]] = []
        for row in frame.mapInArrow(partial(shape_again, task), ROWS).collect():
            if row.name:
                shaped[-1][1][row.name] = pa.ipc.open_stream(pa.py_buffer(row.rows)).read_all()
            else:
                shaped.append((json.loads(bytes(row.rows)), {}))
        return shaped

    def _seen_elsewhere(self, seen: list[Any]) -> dict[str, Occurrence]:
        """Return the ids chosen by clients whose record here is not the first one, and where that is."""
        if not seen:
            return {}
        ids = pa.table({"event_id": [event_id for event_id, *_ in seen]})
        self._spark.createDataFrame(ids).dropDuplicates().createOrReplaceTempView("questlog_backfill_chosen")
        rows = self._spark.sql(
            f"select p.* from {CATALOG}.{self._state.namespace}.{CHECKPOINTS} p"
            " join questlog_backfill_chosen c on p.event_id = c.event_id"
        ).collect()
        places: dict[str, list[Occurrence]] = {}
        for row in rows:
            places.setdefault(row.event_id, []).append((row.part, row.offset, row.received_ms))
        elsewhere: dict[str, Occurrence] = {}
        for event_id, part, offset, ms in seen:
            earlier = places.get(event_id, ())
            if earlier and (part, offset) not in {position[:2] for position in earlier}:
                elsewhere[event_id] = min(earlier, key=lambda position: abs(position[2] - ms))
        return elsewhere

    # -- the tables ------------------------------------------------------------------------------

    def _held(self, tables: Iterable[pa.Table]) -> tuple[set[Key], set[Key]]:
        """Return which of the rows' records are already in an event table, and which in quarantine."""
        ids = pa.concat_tables([table.select(_IDS.names).cast(_IDS) for table in tables])
        self._register_ids(ids)
        between = _between(ids)
        names = [name for name in self._tables.names() if set(_IDS.names) <= set(self._tables.columns(name))]
        parts = [
            f"select {int(name == QUARANTINE_TABLE)} as quarantined, t.event_id, t.received_time from"
            f" {self._path(name)} t left semi join questlog_backfill_ids i"
            f" on t.event_id = i.event_id and t.received_time = i.received_time where t.{between}"
            for name in names
        ]
        held = self._spark.sql(" union all ".join(parts)).toArrow()
        pairs = list(zip(held.column("quarantined").to_pylist(), _keys(held), strict=True))
        in_quarantine = {key for quarantined, key in pairs if quarantined}
        return {key for quarantined, key in pairs if not quarantined}, in_quarantine

    def _register_ids(self, ids: pa.Table) -> None:
        """Make the ids a view in Spark; they are few enough to be sent to every worker."""
        from pyspark.sql.functions import broadcast

        frame = self._spark.createDataFrame(ids, "event_id string, received_time timestamp_ntz")
        broadcast(frame.dropDuplicates()).createOrReplaceTempView("questlog_backfill_ids")

    def _clear(self, keys: set[Key]) -> None:
        """Remove rows from quarantine, while the lander may commit and merge the files they are in."""
        ids = pa.table([[k[0] for k in keys], pa.array([k[1] for k in keys], pa.timestamp("us"))], schema=_IDS)
        self._register_ids(ids)
        table = self._path(QUARANTINE_TABLE)
        statement = (
            f"delete from {table} where {_between(ids)} and exists (select 1 from questlog_backfill_ids i"
            f" where i.event_id = {table}.event_id and i.received_time = {table}.received_time)"
        )
        for attempt in range(ATTEMPTS):
            try:
                self._spark.sql(statement)
                break
            except Exception as error:
                if attempt + 1 == ATTEMPTS or "ValidationException" not in str(error):
                    raise
                time.sleep(0.5 * (attempt + 1))
        self.result.cleared += len(keys)

    def _path(self, name: str) -> str:
        return f"{CATALOG}.{self._tables.namespace}.`{name}`"

    def _add(self, name: str, rows: pa.Table) -> None:
        """Add *rows* in one snapshot, without a checkpoint: the lander's position does not change."""
        from pyspark.sql.pandas.types import to_arrow_schema

        schema = self._spark.table(self._path(name)).schema
        frame = self._spark.createDataFrame(aligned(rows, to_arrow_schema(schema)), schema)
        frame.coalesce(1).writeTo(self._path(name)).append()

    def _allow_deletes(self) -> None:
        """Allow rows to be removed from quarantine while a lander adds others: neither needs the other's rows."""
        table = self._path(QUARANTINE_TABLE)
        properties = {row.key: row.value for row in self._spark.sql(f"show tblproperties {table}").collect()}
        if any(properties.get(key) != value for key, value in _DELETES.items()):
            pairs = ", ".join(f"'{key}' = '{value}'" for key, value in _DELETES.items())
            self._spark.sql(f"alter table {table} set tblproperties ({pairs})")

    def _check_claim(self) -> None:
        rows = self._spark.sql(f"describe namespace extended {CATALOG}.{self._state.namespace}").collect()
        if not any(self._claim in str(row.info_value) for row in rows):
            raise LanderFenced(
                f"another backfill took over the tables of namespace {self._tables.namespace}",
                hint="run one backfill at a time; the rows that this one added stay",
            )


def _keys(table: pa.Table) -> Iterator[Key]:
    ids = table.column("event_id").to_pylist()
    times = table.column("received_time").cast(pa.timestamp("us")).cast(pa.int64()).to_pylist()
    return zip(ids, times, strict=True)


def _between(ids: pa.Table) -> str:
    """Return the condition that keeps Spark to the files that can hold these records."""
    import pyarrow.compute as pc

    ends = pc.min_max(ids.column("received_time"))
    low, high = (ends[name].as_py().isoformat(sep=" ") for name in ("min", "max"))
    return f"received_time between timestamp_ntz '{low}' and timestamp_ntz '{high}'"
