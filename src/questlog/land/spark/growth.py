"""The plan's tables in the cluster's catalog: made, grown and described while the job runs, by the laptop's rules."""

from __future__ import annotations

import json
from typing import Any

from pyiceberg.schema import Schema

from questlog.errors import PlanError
from questlog.lake.evolve import breaking_faults, table_columns
from questlog.lake.schema import Growth, arrow_schema, grown, read_renamed, renamed_property
from questlog.land.spark.tables import SparkTables
from questlog.land.spark.workers import Target
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE, table_schema
from questlog.plan.ddl import create_statements

COMMENT = "comment"
ATTEMPTS = 5


def follow_plan(tables: SparkTables, plan: Plan) -> dict[str, Target]:
    """Make the plan's tables, grow those that are there, and return how rows of each are written.

    Raises `PlanError`, and has grown nothing, where a table cannot follow.
    """
    names, there = (*plan.tables, QUARANTINE_TABLE), set(tables.names())
    found = {name: tables.metadata(tables.namespace, name) for name in names if name in there}
    columns = {name: table_columns(json.dumps(_schema(metadata))) for name, metadata in found.items()}
    faults = breaking_faults(plan, columns, landed_before=tables.remembered(plan.version) is not None)
    if faults:
        raise PlanError("plan.toml", faults)
    targets = {}
    for name, create in zip(names, create_statements(plan, "spark"), strict=True):
        if name not in found:
            tables.create(create, unless_there=True)  # a backfill may be as far
        targets[name] = _grow(tables, plan, name)
    return targets


def target_of(metadata: dict[str, Any]) -> Target:
    """Return how rows of a table are written as it is now."""
    return Target(arrow_schema(Schema.model_validate(_schema(metadata))))


def _schema(metadata: dict[str, Any]) -> dict[str, Any]:
    return next(s for s in metadata["schemas"] if s["schema-id"] == metadata["current-schema-id"])


def _grow(tables: SparkTables, plan: Plan, name: str) -> Target:
    """Give the table what the plan asks for, in one commit; again, if upkeep or a backfill committed meanwhile."""
    from py4j.protocol import Py4JJavaError

    for _ in range(ATTEMPTS - 1):
        try:
            return _try_to_grow(tables, plan, name)
        except Py4JJavaError as error:
            if "CommitFailedException" not in str(error.java_exception.getClass().getName()):
                raise
    return _try_to_grow(tables, plan, name)


def _try_to_grow(tables: SparkTables, plan: Plan, name: str) -> Target:
    """Commit columns, members, names, wider types and descriptions, where the table as it is now has others."""
    metadata = tables.metadata(tables.namespace, name)
    schema = Schema.model_validate(_schema(metadata))
    events = plan.tables.get(name, [])
    aliases = {field.name: field.aliases for event in events for field in event.fields if field.aliases}
    properties = metadata["properties"]
    growth = grown(schema, table_schema(plan, name), metadata["last-column-id"], aliases, read_renamed(properties))
    notes = renamed_property(properties, growth)
    if described := " ".join(event.description for event in events if event.description):
        notes[COMMENT] = described
    changed = {key: text for key, text in notes.items() if properties.get(key) != text}
    if growth.schema != schema or changed:
        _commit(tables, name, growth, changed)
    return Target(arrow_schema(growth.schema), growth.moved)


def _commit(tables: SparkTables, name: str, growth: Growth, properties: dict[str, str]) -> None:
    """Swap the table's metadata for one that has the grown schema; fails if somebody else was quicker."""
    operations = tables.java(tables.namespace, name).operations()
    base = operations.current()
    iceberg: Any = tables.spark._jvm.org.apache.iceberg
    schema = iceberg.SchemaParser.fromJson(growth.schema.model_dump_json())
    change = iceberg.TableMetadata.buildFrom(base).setCurrentSchema(schema, growth.last_id)
    operations.commit(base, change.setProperties(properties).build())
