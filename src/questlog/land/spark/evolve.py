"""Schema evolution in the cluster's catalog: tables follow the plan while the lander runs, by the embedded rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyiceberg.schema import Schema

from questlog.errors import PlanError
from questlog.lake.evolve import breaking_faults, table_columns
from questlog.lake.schema import EvolvedSchema, arrow_schema, evolve_schema, read_renamed, renamed_property
from questlog.land.spark.state import LanderState
from questlog.land.spark.tables import SparkTables, iceberg_schema
from questlog.land.spark.workers import Target
from questlog.plan import Plan
from questlog.plan.columns import QUARANTINE_TABLE, table_schema
from questlog.plan.ddl import create_statements

COMMENT = "comment"
ATTEMPTS = 5


def adopt_plan(tables: SparkTables, state: LanderState, plan: Plan) -> dict[str, Target]:
    """Create the plan's tables, evolve those that exist, keep the plan's text; return how rows of each are written.

    Raises `PlanError`, and has evolved nothing, if a table cannot follow the plan.
    """
    names, existing = (*plan.tables, QUARANTINE_TABLE), set(tables.names())
    schemas = {name: iceberg_schema(tables.metadata(name)) for name in names if name in existing}
    columns = {name: table_columns(json.dumps(schema)) for name, schema in schemas.items()}
    faults = breaking_faults(plan, columns, landed_before=state.plan_text(plan.version) is not None)
    if faults:
        raise PlanError("plan.toml", faults)
    targets = {}
    for name, create in zip(names, create_statements(plan, "spark"), strict=True):
        if name not in existing:
            tables.create(create, if_not_exists=True)  # a backfill may create it at the same moment
        targets[name] = _evolve(tables, plan, name)
    state.save_plan(plan.version, plan.text)
    return targets


def _evolve(tables: SparkTables, plan: Plan, name: str) -> Target:
    """Evolve one table in one commit; try again if table maintenance or a backfill committed meanwhile."""
    from py4j.protocol import Py4JJavaError

    for _ in range(ATTEMPTS - 1):
        try:
            return _try_to_evolve(tables, plan, name)
        except Py4JJavaError as error:
            if "CommitFailedException" not in str(error.java_exception.getClass().getName()):
                raise
    return _try_to_evolve(tables, plan, name)


def _try_to_evolve(tables: SparkTables, plan: Plan, name: str) -> Target:
    """Commit columns, members, names, wider types and descriptions where the table differs from the plan."""
    metadata = tables.metadata(name)
    schema = Schema.model_validate(iceberg_schema(metadata))
    events = plan.tables.get(name, [])
    aliases = {field.name: field.aliases for event in events for field in event.fields if field.aliases}
    properties = metadata["properties"]
    evolved = evolve_schema(
        schema, table_schema(plan, name), metadata["last-column-id"], aliases, read_renamed(properties)
    )
    wanted = renamed_property(properties, evolved)
    if description := " ".join(event.description for event in events if event.description):
        wanted[COMMENT] = description
    changed = {key: text for key, text in wanted.items() if properties.get(key) != text}
    if evolved.schema != schema or changed:
        _commit(tables, name, evolved, changed)
    return Target(arrow_schema(evolved.schema), evolved.moved)


def _commit(tables: SparkTables, name: str, evolved: EvolvedSchema, properties: Mapping[str, str]) -> None:
    """Swap the table's metadata for one with the new schema; fails if another commit was faster."""
    operations = tables.catalog.table(tables.namespace, name).operations()
    base = operations.current()
    iceberg: Any = tables.catalog.spark._jvm.org.apache.iceberg
    schema = iceberg.SchemaParser.fromJson(evolved.schema.model_dump_json())
    change = iceberg.TableMetadata.buildFrom(base).setCurrentSchema(schema, evolved.last_id)
    operations.commit(base, change.setProperties(dict(properties)).build())
