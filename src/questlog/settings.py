"""A project's folder and settings: one row per setting, from questlog.toml or QUESTLOG_… ."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from questlog.errors import ProjectNotFound, QuestlogError

COLLECT_PORT = 8090
"""The collector's port if no other is set."""
CLUSTER_LINE = 'profile = "cluster"'
"""The line of questlog.toml that switches a promoted project over."""
SECRET = re.compile(r"password|secret|\.key\.pem$|token$|credential$|jaas")
"""Names of keys whose values are secrets, which may be only in the environment or in a separate file."""


def _row(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


def _table(meaning: str) -> Any:
    return field(default_factory=dict, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default; each also as QUESTLOG_<NAME> in the environment."""

    profile: str = _row("embedded", "`embedded` needs no servers; `cluster` uses Kafka, Spark, a metastore and Presto.")
    data: str = _row(".questlog", "The data folder: relative to plan.toml, or an absolute path.")
    min_free_mb: int = _row(
        64, "The watermark: with less free space on the log's disk (MiB), events are refused with 503."
    )
    retry_after_seconds: float = _row(5.0, "The Retry-After of a 503.")
    land_seconds: float = _row(2.0, "How long a lander under load collects a batch. Queries do not wait for it.")
    batch_records: int = _row(50_000, "The maximum number of records per landing.")
    keep_log_hours: float = _row(24.0, "How long the log keeps landed events.")
    collect_host: str = _row(
        "127.0.0.1", "The address on which a collector listens; any but localhost needs a write key."
    )
    collect_port: int = _row(0, "The port of the collector that `questlog up` runs too; 0 disables it.")
    query_seconds: float = _row(600.0, "The time limit of a query.")
    query_memory_mb: int = _row(2048, "The memory limit of a query.")
    stack_ports: str = _row(
        "", "`questlog stack`: ports other than the defaults, such as `kafka=19092 presto=18080`, or `free`."
    )
    topic: str = _row("events", "Cluster: the Kafka topic of the events.")
    topic_partitions: int = _row(
        4, "Cluster: the topic's number of partitions at `questlog topic create`; it never changes later."
    )
    topic_replication: int = _row(1, "Cluster: the number of replicas of each partition.")
    topic_retention_hours: float = _row(
        168.0, "Cluster: how long the topic keeps events; must exceed any outage of landing."
    )
    namespace: str = _row("questlog", "Cluster: the schema of the game's tables in the metastore.")
    metastore: str = _row(
        "thrift://127.0.0.1:9083",
        "Cluster: the Hive Metastore or, at https://…, an Iceberg REST catalog;"
        " by default that of the project's own `questlog stack`.",
    )
    warehouse: str = _row(
        "hdfs://127.0.0.1:8020/warehouse",
        "Cluster: the folder of the tables: hdfs://…, or a path if all servers are on one machine;"
        " with a REST catalog also s3://…, or the catalog's name of a warehouse.",
    )
    spark_master: str = _row("local[*]", "Cluster: the Spark master of the lander, such as spark://HOST:7077.")
    spark: Mapping[str, str] = _table("Cluster: Spark's own settings, such as `spark.driver.memory`.")
    kafka: Mapping[str, str] = _table(
        "Cluster: librdkafka's own settings, such as `bootstrap.servers` and `sasl.username`."
    )
    presto: Mapping[str, str] = _table(
        "Cluster: the query engine: `url` (`trino+https://…` is Trino), `user`, `password`, `ca.location`, `catalog`."
    )


@dataclass(frozen=True, slots=True)
class Project:
    """A project folder: `plan.toml`, settings, and the data under `data`."""

    root: Path
    settings: Settings

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.toml"

    @property
    def data(self) -> Path:
        return self.root / self.settings.data  # an absolute path replaces the root

    @property
    def log_folder(self) -> Path:
        return self.data / "log"

    @property
    def warehouse(self) -> Path:
        return self.data / "lake"

    @property
    def catalog(self) -> Path:
        return self.data / "catalog.db"


def find_project(start: str | Path = ".", **overrides: Any) -> Project:
    """Return the project whose plan.toml is in *start* or above it."""
    folder = Path(start).resolve()
    for root in (folder, *folder.parents):
        if (root / "plan.toml").exists():
            return Project(root, load_settings(root / "questlog.toml", **overrides))
    raise ProjectNotFound(
        f"no plan.toml in {folder} or above", hint="questlog init starts a project; questlog -C DIR names one"
    )


def load_settings(path: Path, **overrides: Any) -> Settings:
    """Return the settings. Arguments override the environment, which overrides the file and the defaults."""
    rows = {row.name: row for row in fields(Settings)}
    values: dict[str, Any] = {}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise QuestlogError(f"{path} is not valid TOML: {error}") from error
    values.update(
        {n: t for n in rows if (t := os.environ.get(f"QUESTLOG_{n.upper()}")) is not None and _is_scalar(rows[n])}
    )
    values.update(overrides)
    faults = []
    for name, value in list(values.items()):
        if name not in rows:
            near = difflib.get_close_matches(name, rows, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"unknown setting {name}{guess} Known: {', '.join(rows)}")
        elif _is_scalar(rows[name]):
            values[name], fault = _scalar(name, value, type(rows[name].default))
            faults += fault
        else:
            values[name], fault = _keys(name, value, path.parent)
            faults += fault
    if str(values.get("warehouse", "")).startswith(
        "/"
    ):  # without a scheme, each server would resolve it in its own way
        values["warehouse"] = f"file://{values['warehouse']}"
    for name in rows:
        if not _is_scalar(rows[name]):
            values[name] = {**values.get(name, {}), **_keys_of_environment(name)}
    _follow_stack(values, path.parent / str(values.get("data", Settings.__dataclass_fields__["data"].default)))
    if faults:
        raise QuestlogError("settings: " + "; ".join(faults), hint=f"see {path.name} and QUESTLOG_… variables")
    return Settings(**values)


def _follow_stack(values: dict[str, Any], data: Path) -> None:
    """Set missing addresses to those of the project's own `questlog stack`, if it has one."""
    try:
        ports = json.loads((data / "stack" / "ports.json").read_text("utf-8"))
        kafka, presto = f"127.0.0.1:{ports['kafka']}", f"http://127.0.0.1:{ports['presto']}"
        metastore = f"thrift://127.0.0.1:{ports['metastore']}"
        warehouse = f"hdfs://127.0.0.1:{ports['namenode']}/warehouse"
    except (OSError, ValueError, KeyError, TypeError):
        return
    if "metastore" not in values:  # tables of another metastore belong in another warehouse
        values["metastore"] = metastore
        values.setdefault("warehouse", warehouse)
    if not {"bootstrap.servers", "metadata.broker.list"} & values["kafka"].keys():
        values["kafka"]["bootstrap.servers"] = kafka
    values["presto"].setdefault("url", presto)


def _is_scalar(row: Any) -> bool:
    return row.default is not MISSING


def _scalar(name: str, value: Any, kind: Any) -> tuple[Any, list[str]]:
    try:
        converted = kind(value)
    except (TypeError, ValueError):
        return value, [f"{name}: {value!r} is not a valid {kind.__name__}"]
    if kind is not str and not 0 <= converted < math.inf:
        return value, [f"{name}: {converted!r} is not 0 or more"]
    return converted, []


def _keys(table: str, value: Any, folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return a table's keys and values as strings; `{ file = "…" }` is replaced by the file's contents."""
    if not isinstance(value, Mapping):
        return {}, [f"{table} must be a table: [{table}]"]
    values, faults = dict[str, str](), []
    for key, entry in _flat(value):
        if isinstance(entry, Mapping):
            try:
                values[key] = (folder / str(entry["file"])).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                faults.append(f"{table}.{key}: {error}")
        elif SECRET.search(key):
            faults.append(
                f'{table}.{key}: secrets are not allowed here; use {_variable(table, key)} or {{ file = "…" }}'
            )
        else:
            values[key] = str(entry).lower() if isinstance(entry, bool) else str(entry)
    return values, faults


def _flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return dotted keys and their values: `a.b = 1`, `"a.b" = 1` and a table `[a]` mean the same."""
    flat: list[tuple[str, Any]] = []
    for key, entry in value.items():
        if isinstance(entry, Mapping) and set(entry) != {"file"}:
            flat += _flat(entry, f"{before}{key}.")
        else:
            flat.append((before + key, entry))
    return flat


def _variable(table: str, key: str) -> str:
    return f"QUESTLOG_{table}_{key.replace('.', '_')}".upper()


def _keys_of_environment(table: str) -> dict[str, str]:
    """Return a table's keys from the environment: QUESTLOG_KAFKA_BOOTSTRAP_SERVERS sets bootstrap.servers."""
    start = f"QUESTLOG_{table.upper()}_"
    return {n[len(start) :].lower().replace("_", "."): text for n, text in os.environ.items() if n.startswith(start)}
