"""Iceberg tables as Spark writes them: made and grown from the plan, each commit with its position in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from questlog.errors import LanderFenced, PlanError
from questlog.log import Position, merge
from questlog.plan import Plan, Type
from questlog.plan.columns import QUARANTINE_TABLE, Column, table_columns
from questlog.plan.ddl import create_statements

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CATALOG = "lake"
STATE = "questlog.state"
COPIED = "copied"
"""In a table's state: of which copy its rows are; in the floor's counts: how many rows were copied in all."""
_PROPERTIES = {
    "format-version": "2",
    "write.parquet.compression-codec": "zstd",
    "write.distribution-mode": "none",
    "write.spark.fanout.enabled": "true",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
}
_WIDER = {("int", "bigint"), ("float", "double")}
_SPARK = {"string": "string", "bool": "boolean", "int": "int", "long": "bigint", "float": "float", "double": "double",
          "timestamp": "timestamp_ntz", "date": "date", "binary": "binary", "enum": "string"}  # fmt: skip


@dataclass(slots=True)
class Floor:
    """What every table holds: positions, sequences and counts; with the epoch of the lander that wrote it."""

    position: dict[int, int] = field(default_factory=dict)
    spools: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    plan: str = ""


class SparkTables:
    """The game's tables in one namespace of a catalog, and the lander's own in `<namespace>_state`."""

    def __init__(self, spark: SparkSession, namespace: str) -> None:
        self.spark, self.namespace = spark, namespace
        self.own = f"{namespace}_state"
        self.epoch = 0

    def open(self) -> Floor:
        """Make the lander's own tables, take over, and return the floor."""
        for name in (self.namespace, self.own):
            self.spark.sql(f"create namespace if not exists {CATALOG}.{name}")
        self._make(self.own, "progress", "event_id string, part int, offset bigint, received_ms bigint")
        self._make(self.own, "plans", "version string, text string")
        floor = self.floor()
        self.epoch = floor.epoch + 1
        self.save(Floor(floor.position, floor.spools, floor.counts, self.epoch, floor.plan), pa.table({}))
        return self.floor()

    def _make(self, namespace: str, name: str, columns: str) -> None:
        properties = ", ".join(f"'{k}' = '{v}'" for k, v in _PROPERTIES.items())
        self.spark.sql(
            f"create table if not exists {CATALOG}.{namespace}.{name} ({columns}) using iceberg"
            f" tblproperties ({properties})"
        )

    # -- state -----------------------------------------------------------------------------------

    def floor(self) -> Floor:
        """Return the newest floor: positions, sequences and counts only grow."""
        found = Floor()
        for state in self._states(self.own, "progress"):
            found.position = merge(found.position, _numbers(state["position"]))
            for name, number in state["spools"].items():
                found.spools[name] = max(number, found.spools.get(name, 0))
            for name, number in state["counts"].items():
                found.counts[name] = max(number, found.counts.get(name, 0))
            if state["epoch"] >= found.epoch:
                found.epoch, found.plan = state["epoch"], state["plan"]
        return found

    def positions(self) -> dict[str, tuple[Position, str]]:
        """Return what each table holds, the maximum over all its snapshots, and the plan of the last one."""
        found = {}
        for name in self.names():
            position: Position = {}
            plan = ""
            for state in self._states(self.namespace, name):
                merged = merge(position, _numbers(state["position"]))
                plan = state["plan"] if merged != position or not plan else plan
                position = merged
            found[name] = (position, plan)
        return found

    def names(self) -> list[str]:
        """Return the names of the game's tables."""
        rows = self.spark.sql(f"show tables in {CATALOG}.{self.namespace}").collect()
        return sorted(row.tableName for row in rows)

    def _states(self, namespace: str, name: str) -> list[Any]:
        found = []
        for snapshot in self.java(namespace, name).snapshots():
            text = snapshot.summary().get(STATE)
            if text is not None:
                found.append(json.loads(text))
        return found

    def java(self, namespace: str, name: str) -> Any:
        """Return Iceberg's own table, as it is now."""
        jvm: Any = self.spark._jvm
        return jvm.org.apache.iceberg.spark.Spark3Util.loadIcebergTable(
            self.spark._jsparkSession, f"{CATALOG}.{namespace}.{name}"
        )

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
            self._append(self.own, "plans", pa.table({"version": [version], "text": [text]}), None)

    def know(self, seen: pa.Table) -> None:
        """Keep ids that clients chose, seen elsewhere than in the topic; the floor stays where it is."""
        self._check_epoch()
        self._append(self.own, "progress", seen, None)

    def ids(self, hours: float) -> DataFrame:
        """Return the ids that clients chose, *hours* and a day behind the newest: by the events' time, not by now.

        What waits in a spool or a topic is older than now, and its repeats are older too.
        """
        table = f"{CATALOG}.{self.own}.progress"
        span = int((hours + 24) * 3_600_000)
        return self.spark.sql(
            f"select * from {table} where received_ms >= (select coalesce(max(received_ms), 0) - {span} from {table})"
        )

    # -- locks -----------------------------------------------------------------------------------

    def release_locks(self) -> int:
        """Release the Metastore's locks on our tables that this machine's dead landers left; return how many.

        Call it with the machine's lock held: whoever took them then is dead. Without it the next commit
        would wait until the Metastore times them out.
        """
        jvm: Any = self.spark._jvm
        hive = jvm.org.apache.hadoop.hive
        configuration = hive.conf.HiveConf()
        configuration.set("hive.metastore.uris", self.spark.conf.get(f"spark.sql.catalog.{CATALOG}.uri"))
        client = hive.metastore.HiveMetaStoreClient(configuration)
        host, released = jvm.java.net.InetAddress.getLocalHost().getHostName(), 0
        try:
            for lock in client.showLocks(hive.metastore.api.ShowLocksRequest()).getLocks():
                if lock.getDbname() in (self.namespace, self.own) and lock.getHostname() == host:
                    client.unlock(lock.getLockid())
                    released += 1
        finally:
            client.close()
        return released

    # -- commits ---------------------------------------------------------------------------------

    def commit(self, table: str, rows: pa.Table, through: Position, plan: str) -> None:
        """Add *rows* and remember *through* in one snapshot; raise `LanderFenced` if another lander took over."""
        self._check_epoch()
        state = {"position": {str(p): o for p, o in through.items()}, "plan": plan, "epoch": self.epoch}
        self._append(self.namespace, table, rows, state)

    def save(self, floor: Floor, seen: pa.Table) -> None:
        """Move the floor, with the ids that clients chose, in one snapshot."""
        self._check_epoch()
        state = {
            "position": {str(p): o for p, o in floor.position.items()}, "spools": floor.spools,
            "counts": floor.counts, "epoch": self.epoch, "plan": floor.plan,
        }  # fmt: skip
        if seen.num_rows:
            self._append(self.own, "progress", seen, state)
            return
        self.java(self.own, "progress").newAppend().set(STATE, _text(state)).commit()

    def carry(self, namespace: str, name: str) -> None:
        """Commit the table's state anew, merged: the snapshots that hold it may then be forgotten."""
        self._check_epoch()
        if name == "progress" and namespace == self.own:
            self.save(self.floor(), pa.table({}))
            return
        position, plan = self.positions()[name]
        state = {"position": {str(p): o for p, o in position.items()}, "plan": plan, "epoch": self.epoch}
        self.java(namespace, name).newAppend().set(STATE, _text(state)).commit()

    def _check_epoch(self) -> None:
        newest = max((state["epoch"] for state in self._states(self.own, "progress")), default=0)
        if newest > self.epoch:
            raise LanderFenced(
                f"another lander took over these tables (it is number {newest}, this one {self.epoch})",
                hint="let one lander run",
            )

    def _append(self, namespace: str, name: str, rows: pa.Table, state: Mapping[str, Any] | None) -> None:
        from pyspark.sql.pandas.types import to_arrow_schema

        from questlog.lake.schema import aligned  # here, so that a worker need not have PyIceberg

        target = f"{CATALOG}.{namespace}.{name}"
        schema = self.spark.table(target).schema
        frame = self.spark.createDataFrame(aligned(rows, to_arrow_schema(schema)), schema)
        writer = frame.coalesce(1).writeTo(target)
        if state is not None:
            writer = writer.option(f"snapshot-property.{STATE}", _text(state))
        writer.append()

    # -- copies ----------------------------------------------------------------------------------

    def copy(self, table: str, rows: pa.Table, plan: str, copied: Mapping[str, Any]) -> None:
        """Add rows that were landed elsewhere, and remember of which copy they are; no position of the topic moves."""
        self._check_epoch()
        state = {"position": {}, "plan": plan, "epoch": self.epoch, COPIED: copied}
        self._append(self.namespace, table, rows, state)

    def copied(self, table: str) -> list[Mapping[str, Any]]:
        """Return what each `copy` into the table remembered."""
        return [state[COPIED] for state in self._states(self.namespace, table) if COPIED in state]

    def records(self, table: str) -> int:
        """Return how many rows the table has."""
        snapshot = self.java(self.namespace, table).currentSnapshot()
        return 0 if snapshot is None else int(snapshot.summary().get("total-records"))

    def drop(self, table: str) -> None:
        """Forget the table and its files."""
        self._check_epoch()
        self.spark.sql(f"drop table {CATALOG}.{self.namespace}.`{table}` purge")

    # -- schema ----------------------------------------------------------------------------------

    def create(self, statement: str) -> None:
        """Make a table of the game as *statement* says, with the properties that all of them have."""
        properties = ", ".join(f"'{k}' = '{v}'" for k, v in _PROPERTIES.items())
        self.spark.sql(f"use {CATALOG}.{self.namespace}")
        self.spark.sql(f"{statement}\nTBLPROPERTIES ({properties})")

    def adopt(self, plan: Plan) -> None:
        """Make the plan's tables, and grow those that are there; raise `PlanError` where one cannot follow."""
        have = set(self.names())
        self.spark.sql(f"use {CATALOG}.{self.namespace}")
        faults: list[str] = []
        for name, create in zip((*plan.tables, QUARANTINE_TABLE), create_statements(plan, "spark"), strict=True):
            if name not in have:
                self.create(create)
            else:
                faults += self._grow(name, table_columns(plan, name))
        if faults:
            raise PlanError("plan.toml", faults)

    def _grow(self, table: str, columns: tuple[Column, ...]) -> list[str]:
        """Give the table what the plan asks for: columns, names, wider types, comments; return what cannot be."""
        schema = self.spark.table(f"{CATALOG}.{self.namespace}.{table}").schema
        there = {f.name: f.dataType.simpleString() for f in schema}
        alter, faults = f"alter table {CATALOG}.{self.namespace}.`{table}`", []
        planned = {column.name for column in columns}
        for column in columns:
            wanted, old = _ddl(column.type), None
            if column.name not in there:
                old = next((a for a in column.aliases if a in there and a not in planned), None)
                if old is None:
                    self.spark.sql(f"{alter} add column `{column.name}` {wanted} comment {_quoted(column.comment)}")
                    continue
                self.spark.sql(f"{alter} rename column `{old}` to `{column.name}`")
                there[column.name] = there.pop(old)
            found = there[column.name]
            if found == wanted or (wanted, found) in _WIDER:
                continue
            if (found, wanted) in _WIDER or _more_digits(found, wanted):
                self.spark.sql(f"{alter} alter column `{column.name}` type {wanted}")
            else:
                faults.append(
                    f"column {column.name} of table {table} holds {found}, and the plan says {wanted};"
                    " keep the type, or add a field with a new name"
                )
        return faults


def _ddl(type_: Type) -> str:
    """Return a type as Spark writes it."""
    if type_.kind == "decimal":
        return f"decimal({type_.precision},{type_.scale})"
    if type_.kind == "list" and type_.item is not None:
        return f"array<{_ddl(type_.item)}>"
    if type_.kind == "map" and type_.item is not None:
        return f"map<string,{_ddl(type_.item)}>"
    if type_.kind == "struct":
        return "struct<" + ",".join(f"{name}:{_ddl(inner)}" for name, inner in type_.fields) + ">"
    return _SPARK[type_.kind]


def _more_digits(found: str, wanted: str) -> bool:
    if not (found.startswith("decimal(") and wanted.startswith("decimal(")):
        return False
    (p, s), (q, t) = (map(int, text[8:-1].split(",")) for text in (found, wanted))
    return s == t and q > p


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _text(state: Mapping[str, Any]) -> str:
    return json.dumps(state, separators=(",", ":"))


def _numbers(position: Mapping[str, int]) -> dict[int, int]:
    return {int(partition): offset for partition, offset in position.items()}
