"""Reads a part of the topic again, under the plan of now, and adds to the tables what they do not hold.

A record is known by its id and received time, which never change, wherever it is read from. So a backfill
that is killed and run again adds what is missing still, and one that runs beside the lander takes nothing
from it: it ends where the lander's floor is.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from questlog.errors import LanderFenced, QuestlogError
from questlog.lake.parquet import aligned
from questlog.land import StopSignal
from questlog.land.moment import landed_at
from questlog.land.part import Filled, count_between, slices
from questlog.land.spark.again import RESULT, Again, shape_again
from questlog.land.spark.catalog import CATALOG
from questlog.land.spark.part import read_part
from questlog.land.spark.tables import SparkTables
from questlog.log import Position
from questlog.plan import Plan
from questlog.shape import QUARANTINE, Place

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CLAIM = "questlog.backfill"
ATTEMPTS = 5
"""How often taking rows out of quarantine is tried while the lander merges the files they are in."""
_DELETES = {"write.delete.mode": "copy-on-write", "write.delete.isolation-level": "snapshot"}
_IDS = pa.schema([("event_id", pa.string()), ("received_time", pa.timestamp("us"))])

logger = logging.getLogger("questlog.backfill")
Key = tuple[str, int]
"""Id and received microseconds of a record."""


class SparkBackfill:
    """Fills the tables of one namespace. One works at a time: a newer one fences it."""

    def __init__(self, tables: SparkTables, plan: Plan, *, topic: str, kafka: Mapping[str, str], records: int) -> None:
        self._tables, self._spark, self._plan = tables, tables.spark, plan
        self._topic, self._kafka, self._records = topic, kafka, records
        self._claim = uuid.uuid4().hex[:12]
        self._spools: dict[str, int] = {}
        self.done = Filled()

    def begin(self) -> Position:
        """Take over from an older backfill, bring the tables up to the plan; return where the lander's part begins."""
        if not self._spark.sql(f"show namespaces in {CATALOG} like '{self._tables.own}'").collect():
            raise QuestlogError(
                f"nothing has landed in namespace {self._tables.namespace} yet",
                hint="questlog land; or --into NAME makes new tables",
            )
        self._spark.sql(f"alter namespace {CATALOG}.{self._tables.own} set properties ('{CLAIM}' = '{self._claim}')")
        self._tables.adopt(self._plan)
        self._allow_deletes()
        return self._tables.floor().position

    def fill(self, first: Position, until: Position, stop: StopSignal, shown: Callable[[int, int], None]) -> Filled:
        """Add what lies between; a stop waits for the slice under way.

        *shown* is told how many records are read, and how many offsets are left.
        """
        for begin, end in slices(first, until, self._records):
            if stop.is_set():
                break
            self._slice(read_part(self._spark, self._kafka, self._topic, begin, end))
            shown(self.done.records, count_between(end, until))
        return self.done

    def _slice(self, frame: DataFrame) -> None:
        """1 shape  2 what is held  3 add events  4 take them out of quarantine  5 add to quarantine, last.

        In this order a crash leaves an event in its table and in quarantine at worst, and the next run sees it.
        """
        started = time.monotonic()
        counts, rows = self._shape(frame)
        if not rows:
            return
        events = {name: table for name, table in rows.items() if name != QUARANTINE}
        in_tables, in_quarantine = self._held(rows.values())
        taken = set(in_tables)
        now_ms = time.time_ns() // 1_000_000
        self._check_claim()
        for name, table in sorted(events.items()):
            new = self._new(table, taken)
            if new.num_rows:
                self._add(name, landed_at(new, now_ms))
                self._count(name, new.num_rows)
        landed = {key for table in events.values() for key in _keys(table)}
        if cleared := landed & in_quarantine:
            self._clear(cleared)
        if QUARANTINE in rows:
            new = self._new(rows[QUARANTINE], taken | in_quarantine)
            if new.num_rows:
                self._add(QUARANTINE, new)
                self._count(QUARANTINE, new.num_rows)
        logger.info(
            "stage=backfill records=%d rows=%d cleared=%d ms=%d",
            counts["records"], sum(t.num_rows for t in rows.values()), len(cleared),
            (time.monotonic() - started) * 1000,
        )  # fmt: skip

    def _count(self, name: str, rows: int) -> None:
        self.done.rows = {**self.done.rows, name: self.done.rows.get(name, 0) + rows}

    def _new(self, table: pa.Table, taken: set[Key]) -> pa.Table:
        """Return the rows whose record is not *taken*, which then are."""
        keep = []
        for key in _keys(table):
            keep.append(key not in taken)
            taken.add(key)
        self.done.held += keep.count(False)
        return table.filter(pa.array(keep, pa.bool_()))

    # -- shape -----------------------------------------------------------------------------------

    def _shape(self, frame: DataFrame) -> tuple[dict[str, int], dict[str, pa.Table]]:
        """Shape each of the topic's partitions in a worker of its own; again, if ids are known from another place."""
        found = self._collect(frame, {})
        if known := self._known([seen for counts, _ in found for seen in counts["seen"]]):
            found = self._collect(frame, known)
        totals = {name: sum(counts[name] for counts, _ in found) for name in ("records", "duplicate")}
        for counts, _ in found:
            self._spools |= {n: s for n, s in counts["spools"].items() if s > self._spools.get(n, 0)}
        self.done.records += totals["records"]
        self.done.duplicates += totals["duplicate"]
        names = {name for _, rows in found for name in rows}
        parts = {name: [rows[name] for _, rows in found if name in rows] for name in names}
        return totals, {name: pa.concat_tables(tables) for name, tables in parts.items()}

    def _collect(self, frame: DataFrame, known: Mapping[str, Place]) -> list[tuple[Any, dict[str, pa.Table]]]:
        task = Again(self._plan.text, self._spools, known)
        found: list[tuple[Any, dict[str, pa.Table]]] = []
        for row in frame.mapInArrow(partial(shape_again, task), RESULT).collect():
            if row.name:
                found[-1][1][row.name] = pa.ipc.open_stream(pa.py_buffer(row.rows)).read_all()
            else:
                found.append((json.loads(bytes(row.rows)), {}))
        return found

    def _known(self, seen: list[Any]) -> dict[str, Place]:
        """Return the ids that clients chose whose record here is not the first, and where the first one is."""
        if not seen:
            return {}
        ids = pa.table({"event_id": [event_id for event_id, *_ in seen]})
        self._spark.createDataFrame(ids).dropDuplicates().createOrReplaceTempView("questlog_backfill_chosen")
        rows = self._spark.sql(
            f"select p.* from {CATALOG}.{self._tables.own}.progress p"
            " join questlog_backfill_chosen c on p.event_id = c.event_id"
        ).collect()
        places: dict[str, list[Place]] = {}
        for row in rows:
            places.setdefault(row.event_id, []).append((row.part, row.offset, row.received_ms))
        found: dict[str, Place] = {}
        for event_id, part, offset, ms in seen:
            known = places.get(event_id, ())
            if known and (part, offset) not in {place[:2] for place in known}:
                found[event_id] = min(known, key=lambda place: abs(place[2] - ms))
        return found

    # -- what is held ----------------------------------------------------------------------------

    def _held(self, tables: Any) -> tuple[set[Key], set[Key]]:
        """Return which of the rows' records are in an event table, and which are in quarantine."""
        ids = pa.concat_tables([table.select(_IDS.names).cast(_IDS) for table in tables])
        self._show_ids(ids)
        between = _between(ids)
        homes = [n for n in self._tables.names() if set(_IDS.names) <= set(self._spark.table(self._path(n)).columns)]
        parts = [
            f"select {int(name == QUARANTINE)} as apart, t.event_id, t.received_time from"
            f" {self._path(name)} t left semi join questlog_backfill_ids i"
            f" on t.event_id = i.event_id and t.received_time = i.received_time where t.{between}"
            for name in homes
        ]
        found = self._spark.sql(" union all ".join(parts)).toArrow()
        keys = list(_keys(found))
        apart = found.column("apart").to_pylist()
        pairs = list(zip(apart, keys, strict=True))
        return {key for a, key in pairs if not a}, {key for a, key in pairs if a}

    def _show_ids(self, ids: pa.Table) -> None:
        """Give the ids to Spark under a name; few enough to be sent to every worker."""
        from pyspark.sql.functions import broadcast

        frame = self._spark.createDataFrame(ids, "event_id string, received_time timestamp_ntz")
        broadcast(frame.dropDuplicates()).createOrReplaceTempView("questlog_backfill_ids")

    def _clear(self, keys: set[Key]) -> None:
        """Take rows out of quarantine; the lander may commit meanwhile, and merge the files they lie in."""
        ids = pa.table([[k[0] for k in keys], pa.array([k[1] for k in keys], pa.timestamp("us"))], schema=_IDS)
        self._show_ids(ids)
        table = self._path(QUARANTINE)
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
        self.done.cleared += len(keys)

    def _path(self, name: str) -> str:
        return f"{CATALOG}.{self._tables.namespace}.`{name}`"

    def _add(self, name: str, rows: pa.Table) -> None:
        """Add *rows* in one snapshot. It carries no position: what the lander holds does not change by it."""
        from pyspark.sql.pandas.types import to_arrow_schema

        schema = self._spark.table(self._path(name)).schema
        frame = self._spark.createDataFrame(aligned(rows, to_arrow_schema(schema)), schema)
        frame.coalesce(1).writeTo(self._path(name)).append()

    def _allow_deletes(self) -> None:
        """Let rows be taken out of quarantine while a lander adds others: neither looks at the other's."""
        table = self._path(QUARANTINE)
        said = {row.key: row.value for row in self._spark.sql(f"show tblproperties {table}").collect()}
        if any(said.get(key) != value for key, value in _DELETES.items()):
            pairs = ", ".join(f"'{key}' = '{value}'" for key, value in _DELETES.items())
            self._spark.sql(f"alter table {table} set tblproperties ({pairs})")

    def _check_claim(self) -> None:
        rows = self._spark.sql(f"describe namespace extended {CATALOG}.{self._tables.own}").collect()
        if not any(self._claim in str(row.info_value) for row in rows):
            raise LanderFenced(
                f"another backfill took over the tables of namespace {self._tables.namespace}",
                hint="let one backfill run; whatever this one added stays",
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
