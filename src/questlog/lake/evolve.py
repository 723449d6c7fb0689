"""Checks whether a plan can land into the existing tables. Needs no PyIceberg, so that it is cheap at startup."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

from questlog.errors import PlanError
from questlog.lake.state import read_schemas
from questlog.plan import Plan
from questlog.plan.columns import Column
from questlog.plan.columns import table_columns as planned_columns
from questlog.plan.evolve import column_change, widest
from questlog.types import NAME_OF_ICEBERG, Type


def table_columns(schema: str) -> dict[str, Type]:
    """Return the columns of a table whose Iceberg schema is the JSON *schema*, as plan types."""
    return {field["name"]: plan_type(field["type"]) for field in json.loads(schema)["fields"]}


def plan_type(type_: Any) -> Type:
    """Return the plan's type of a column from its type in Iceberg's JSON."""
    if isinstance(type_, str):
        decimal = re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", type_)
        if decimal:
            return Type("decimal", int(decimal.group(1)), int(decimal.group(2)))
        return Type(NAME_OF_ICEBERG.get(type_, type_))
    if type_["type"] == "list":
        return Type("list", item=plan_type(type_["element"]))
    if type_["type"] == "map":
        return Type("map", item=plan_type(type_["value"]))
    return Type("struct", fields=tuple((f["name"], plan_type(f["type"])) for f in type_["fields"]))


def refuse_breaking(plan: Plan, connection: sqlite3.Connection, path_of_plan: str = "plan.toml") -> None:
    """Raise `PlanError` if *plan* changes a column in a way that loses values; each fault says what to do.

    A plan that has landed here before may return with narrower types (a rolling deployment, a rollback).
    The column then keeps its width.
    """
    landed_before = connection.execute("select 1 from questlog_plans where version = ?", (plan.version,)).fetchone()
    schemas = {name: table_columns(schema) for name, schema in read_schemas(connection).items()}
    faults = breaking_faults(plan, schemas, landed_before=landed_before is not None)
    if faults:
        raise PlanError(path_of_plan, faults)


def breaking_faults(plan: Plan, tables: Mapping[str, Mapping[str, Type]], *, landed_before: bool) -> list[str]:
    """Return the changes to columns of *tables* by which *plan* would lose values."""
    faults = []
    for table, events in plan.tables.items():
        columns = tables.get(table, {})
        paths = {field.name: f"events.{event.name}.fields.{field.name}" for event in events for field in event.fields}
        for column in planned_columns(plan, table):
            path = paths.get(column.name, "headers.keep")
            fault = _fault(path, table, column, columns, tolerant=landed_before)
            if fault:
                faults.append(fault)
    return list(dict.fromkeys(faults))


def _fault(path: str, table: str, column: Column, columns: Mapping[str, Type], *, tolerant: bool) -> str:
    """Return what is wrong with *column*, or "". A column that the table has under an alias counts too."""
    name = next((n for n in (column.name, *column.aliases) if n in columns), None)
    if name is None or column_change(columns[name], column.type) != "breaking":
        return ""
    if tolerant and _fits(columns[name], column.type):
        return ""
    fault = f"{path}: the type is now {column.type}, but column {name} of table {table} holds {columns[name]}."
    if path == "headers.keep":
        return f"{fault} The header {column.name} cannot be kept beside it"
    fresh = f"{column.name}_{column.type.kind}"
    return (
        f"{fault} Keep the type {columns[name]}, or leave {name} as it is and add a field with a new name, e.g. {fresh}"
    )


def _fits(column: Type, type_: Type) -> bool:
    try:
        widest(column, type_)
    except ValueError:
        return False
    return True
