"""A plan as JSON Schema 2020-12: an event that is valid by it becomes a row."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping
from typing import Any

from questlog.plan import Envelope, Event, Field, Plan, Type
from questlog.types import SCALARS, is_number

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TIME = SCALARS["timestamp"].json_schema
_ENVELOPE: dict[str, dict[str, Any]] = {
    "event_id": {"type": ["string", "null"], "maxLength": 200, "description": "The sender's id; repeats count once."},
    "event_time": {**_TIME, "description": "When it happened."},
    "sent_time": {**_TIME, "description": "When this was sent; set it again for each retry."},
    "player_id": {"type": ["string", "integer", "null"], "description": "The player."},
    "session_id": {"type": ["string", "integer", "null"], "description": "The session."},
    "sequence": {"type": ["integer", "null"], "description": "The sender's sequence number."},
}  # fmt: skip


def plan_schema(plan: Plan) -> dict[str, Any]:
    """Return the schema of any event of *plan*."""
    body: dict[str, Any] = {"$schema": DIALECT, "title": plan.game}
    if plan.description:
        body["description"] = plan.description
    any_of = [{"$ref": f"#/$defs/{name}"} for name in plan.events]
    body["anyOf" if any_of else "not"] = any_of or {}  # without events nothing is valid
    body["$defs"] = {name: _event(event, plan.envelope) for name, event in plan.events.items()}
    return body


def event_schema(plan: Plan, name: str) -> dict[str, Any]:
    """Return the schema of one event of *plan*."""
    return {"$schema": DIALECT, **_event(plan.events[name], plan.envelope)}


def _event(event: Event, envelope: Envelope) -> dict[str, Any]:
    """Return an event's schema. Fields that are not in the plan are valid: they are kept in `_rescued`."""
    root: dict[str, Any] = {"title": event.name}
    if event.description:
        root["description"] = event.description
    root |= {"type": "object", "properties": {}}
    identity = dict(event.match) or {envelope.event_type: event.name}
    for path, value in identity.items():
        _put(root, path, {"const": value}, required=True)
    for name, schema in _ENVELOPE.items():
        _put(root, getattr(envelope, name), _or_null(schema), required=False)
    needed = any(field.required and field.default is None for field in event.fields)
    inside = _object_at(root, envelope.fields, required=needed) if envelope.fields else root
    for field in event.fields:
        _put_field(inside, field)
    return root


def _object_at(root: dict[str, Any], path: str, *, required: bool) -> dict[str, Any]:
    """Return the schema of the object at a dotted *path*; create it if it is missing."""
    for part in path.split("."):
        inner = root["properties"].setdefault(part, {})
        if required:
            inner["type"] = "object"
            root["required"] = sorted({*root.get("required", ()), part})
        inner.setdefault("type", ["object", "null"])
        inner.setdefault("properties", {})
        root = inner
    return root


def _put(root: dict[str, Any], path: str, schema: dict[str, Any], *, required: bool) -> None:
    above, dot, last = path.rpartition(".")
    _put_in(_object_at(root, above, required=required) if dot else root, last, schema, required=required)


def _put_in(inner: dict[str, Any], last: str, schema: dict[str, Any], *, required: bool) -> None:
    existing = inner["properties"].get(last)
    inner["properties"][last] = schema if existing is None else {"allOf": [existing, schema]}
    if required:
        inner["required"] = sorted({*inner.get("required", ()), last})


def _put_field(inside: dict[str, Any], field: Field) -> None:
    """Add a field under each of its names; null counts as missing."""
    required = field.required and field.default is None
    if required and not field.aliases:
        _put_in(inside, field.name, _field(field), required=True)
        return
    names = (field.name, *field.aliases)
    for name in names:
        _put_in(inside, name, _or_null(_field(field)), required=False)
    if required:
        sent = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
        inside.setdefault("allOf", []).append({"anyOf": sent})


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    nullable = dict(schema)
    if isinstance(nullable.get("type"), str):
        nullable["type"] = [nullable["type"], "null"]
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    if "anyOf" in nullable:
        nullable["anyOf"] = [*nullable["anyOf"], {"type": "null"}]
    return nullable


def _field(field: Field) -> dict[str, Any]:
    schema = _type(field.type)
    if field.enum:
        schema["enum"] = list(field.enum)
    numbers = [schema, *schema.get("anyOf", ())]
    for part in numbers if is_number(field.type) else ():
        if part.get("type") in ("integer", "number"):
            _bound(part, field)
    if field.max_length is not None:
        schema["maxLength" if field.type.kind == "string" else "maxItems"] = field.max_length
    if field.pattern is not None:
        schema["pattern"] = field.pattern
    if field.description:
        schema["description"] = field.description
    if field.default is not None:
        schema["default"] = as_json(field.default)
    if field.deprecated:
        schema["deprecated"] = True
    return schema


def _bound(schema: dict[str, Any], field: Field) -> None:
    """Narrow the type's own bounds by the field's."""
    if isinstance(field.min, int | float):
        schema["minimum"] = max(field.min, schema.get("minimum", field.min))
    if isinstance(field.max, int | float):
        schema["maximum"] = min(field.max, schema.get("maximum", field.max))


def _type(type_: Type) -> dict[str, Any]:
    kind = type_.kind
    if kind in SCALARS:
        return copy.deepcopy(dict(SCALARS[kind].json_schema))
    if kind == "decimal":
        return _decimal(type_)
    if kind == "list":
        assert type_.item is not None
        return {"type": "array", "items": _or_null(_type(type_.item))}
    if kind == "map":
        assert type_.item is not None
        return {"type": "object", "additionalProperties": _or_null(_type(type_.item))}
    members = {name: _or_null(_type(inner)) for name, inner in type_.fields}
    return {"type": "object", "properties": members, "additionalProperties": False}


def _decimal(type_: Type) -> dict[str, Any]:
    """Return the schema of a number or its digits as text. JSON Schema cannot count a number's decimals."""
    limit = 10 ** (type_.precision - type_.scale)
    behind = rf"(\.[0-9]{{0,{type_.scale}}})?" if type_.scale else r"\.?"
    digits = rf"^[+-]?0*[0-9]{{1,{max(type_.precision - type_.scale, 1)}}}{behind}$"
    return {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": -limit, "exclusiveMaximum": limit},
            {"type": "string", "pattern": digits},
        ]
    }


def as_json(value: Any) -> Any:
    """Return a value of the plan as JSON, with dates and times as text."""
    if isinstance(value, dt.datetime):
        return value.isoformat() if value.tzinfo else value.isoformat() + "Z"
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    return value
