"""Columns of a table: Arrow and plan types as Iceberg's, and how a table's schema evolves with the plan.

Columns are added and widened, never removed. A column is identified by its field id, not by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.types import DecimalType, IcebergType, ListType, MapType, NestedField, StructType

from questlog.errors import QuestlogError
from questlog.types import SCALARS

_ICEBERG = {pa.type_for_alias(row.arrow): IcebergType.model_validate(row.iceberg) for row in SCALARS.values()}
_ARROW = {iceberg: arrow for arrow, iceberg in _ICEBERG.items()}
_WIDER = {
    (IcebergType.model_validate(row.iceberg), IcebergType.model_validate(SCALARS[name].iceberg))
    for row in SCALARS.values()
    for name in row.wider
}


@dataclass(frozen=True, slots=True)
class EvolvedSchema:
    """A schema that can store the plan's columns. `moved` maps their names to the table's where these differ.

    `renamed` keeps every former name of a column, so that a process with the old plan still finds it.
    """

    schema: Schema
    moved: Mapping[str, str]
    renamed: Mapping[str, str]
    last_id: int


def evolve_schema(
    schema: Schema,
    columns: pa.Schema,
    last_id: int,
    aliases: Mapping[str, Sequence[str]] | None = None,
    renamed: Mapping[str, str] | None = None,
) -> EvolvedSchema:
    """Return *schema* evolved so that it can store *columns*.

    If a column is missing and one of its aliases names a column that the plan no longer has, that column is
    renamed. Any other missing column is added at the end, and types are widened to hold both. Nothing is removed.
    """
    ids = count(last_id + 1)
    fields = {field.name: field for field in schema.fields}
    former, moved = dict(renamed or {}), {}
    for column in columns:
        name = column.name
        if name not in fields:
            old = next((a for a in (aliases or {}).get(name, ()) if a in fields and a not in columns.names), None)
            if old is not None:
                fields[name] = fields.pop(old)
                former = {o: name if n == old else n for o, n in former.items() if o != name} | {old: name}
            elif _may_move(former.get(name, ""), fields, column, columns.names):
                moved[name] = former[name]
                name = former[name]
        existing = fields.get(name)
        doc = (column.metadata or {}).get(b"comment", b"").decode() or (existing.doc if existing else None)
        field_id = existing.field_id if existing else next(ids)
        type_ = _merged(existing.field_type, column.type, ids, name) if existing else _new_type(column.type, ids)
        fields[name] = NestedField(field_id, name, type_, doc=doc)
        former.pop(name, None)
    order = {field.field_id: index for index, field in enumerate(schema.fields)}
    ordered = sorted(fields.values(), key=lambda field: order.get(field.field_id, field.field_id + len(order)))
    return EvolvedSchema(Schema(*ordered), moved, former, next(ids) - 1)


def _may_move(name: str, fields: Mapping[str, NestedField], column: pa.Field, planned: Sequence[str]) -> bool:
    """Return whether *column*, which was renamed to *name*, may be written there: an older plan is in use again."""
    if name not in fields or name in planned:
        return False
    try:
        _merged(fields[name].field_type, column.type, count(0), name)
    except QuestlogError:  # another field has taken the old name
        return False
    return True


def _new_type(type_: pa.DataType, ids: Iterator[int]) -> IcebergType:
    """Return the Iceberg type of an Arrow type, with fresh ids inside."""
    if pa.types.is_struct(type_):
        return StructType(*(NestedField(next(ids), f.name, _new_type(f.type, ids)) for f in type_))
    if pa.types.is_map(type_):
        key, value = next(ids), next(ids)
        return MapType(key, _new_type(type_.key_type, ids), value, _new_type(type_.item_type, ids), False)
    if pa.types.is_list(type_):
        return ListType(next(ids), _new_type(type_.value_type, ids), False)
    if pa.types.is_decimal(type_):
        return DecimalType(type_.precision, type_.scale)
    return _ICEBERG[type_]


def _merged(old: IcebergType, new: pa.DataType, ids: Iterator[int], path: str) -> IcebergType:
    """Return the type that holds the values of both; members that exist only in *old* are kept."""
    if isinstance(old, StructType) and pa.types.is_struct(new):
        members = {f.name: f for f in old.fields}
        for f in new:
            member = members.get(f.name)
            if member is None:
                members[f.name] = NestedField(next(ids), f.name, _new_type(f.type, ids))
            else:
                type_ = _merged(member.field_type, f.type, ids, f"{path}.{f.name}")
                members[f.name] = NestedField(member.field_id, f.name, type_, doc=member.doc)
        return StructType(*members.values())
    if isinstance(old, ListType) and pa.types.is_list(new):
        return ListType(old.element_id, _merged(old.element_type, new.value_type, ids, f"{path}[]"), False)
    if isinstance(old, MapType) and pa.types.is_map(new):
        value = _merged(old.value_type, new.item_type, ids, f"{path}{{}}")
        return MapType(old.key_id, old.key_type, old.value_id, value, False)
    if isinstance(old, DecimalType) and pa.types.is_decimal(new) and old.scale == new.scale:
        return DecimalType(max(old.precision, new.precision), old.scale)
    if not (pa.types.is_nested(new) or pa.types.is_decimal(new)):
        wanted = _new_type(new, ids)
        if wanted == old or (wanted, old) in _WIDER:
            return old
        if (old, wanted) in _WIDER:
            return wanted
    raise QuestlogError(f"column {path} is {old} and cannot become {new}", hint="questlog plan check")


def arrow_schema(schema: Schema) -> pa.Schema:
    """Return the Arrow schema of the table's files: Iceberg's field ids in each column's metadata."""
    return pa.schema([_arrow_field(field) for field in schema.fields])


def _arrow_field(field: NestedField, name: str = "") -> pa.Field:
    return pa.field(
        name or field.name,
        _arrow_type(field.field_type),
        nullable=not field.required,
        metadata={"PARQUET:field_id": str(field.field_id)},
    )


def _arrow_type(type_: IcebergType) -> pa.DataType:
    if isinstance(type_, StructType):
        return pa.struct([_arrow_field(f) for f in type_.fields])
    if isinstance(type_, ListType):
        return pa.list_(_arrow_field(type_.element_field, "element"))
    if isinstance(type_, MapType):
        return pa.map_(_arrow_field(type_.key_field, "key"), _arrow_field(type_.value_field, "value"))
    if isinstance(type_, DecimalType):
        return pa.decimal128(type_.precision, type_.scale)
    return _ARROW[type_]


def names_by_id(file: pa.Schema, current: Schema) -> dict[str, str]:
    """Map a file's column names to the table's current names, by field id."""
    now = {field.field_id: field.name for field in current.fields}
    return {
        column.name: now[int(column.metadata[b"PARQUET:field_id"])]
        for column in file
        if int(column.metadata[b"PARQUET:field_id"]) in now
    }


_RENAMED = "questlog.renamed"
"""The table property that holds `EvolvedSchema.renamed`."""


def read_renamed(properties: Mapping[str, str]) -> dict[str, str]:
    """Return the former names of columns, each with its current name, from a table's *properties*."""
    return dict(json.loads(properties.get(_RENAMED, "{}")))


def renamed_property(properties: Mapping[str, str], evolved: EvolvedSchema) -> dict[str, str]:
    """Return the table property that records the renamed columns; empty if none was ever renamed."""
    if not (evolved.renamed or read_renamed(properties)):
        return {}
    return {_RENAMED: json.dumps(dict(evolved.renamed), sort_keys=True)}
