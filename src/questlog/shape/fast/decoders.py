"""A plan -> msgspec types for the fast path. They decode a value to what the scalar path makes of it, or fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, Literal, Union

import msgspec
import pyarrow as pa

from questlog.plan import Envelope, Event, Type
from questlog.plan.columns import arrow_type
from questlog.record import MAX_ID_LENGTH
from questlog.shape.fast import columns
from questlog.shape.fields import EventRule, FieldRule, Rules
from questlog.types import SCALARS, Scalar, decoded_type

Build = Callable[[list[Any]], pa.Array]

_ENVELOPE: tuple[tuple[str, str, Any, Build], ...] = (
    ("device_time", "event_time", int | str, columns.timestamps),
    ("sent_time", "sent_time", int | str, columns.timestamps),
    ("player_id", "player_id", str | int, columns.identifiers),
    ("session_id", "session_id", str | int, columns.identifiers),
    ("sequence", "sequence", decoded_type(SCALARS["long"]), columns.unchanged(pa.int64())),
)
"""Column, its name in the plan's envelope, the type of its values, how they become a column."""
_ID = Annotated[str, msgspec.Meta(max_length=MAX_ID_LENGTH)]
_NO_EVENT = "\x00"
"""A tag that no event has: msgspec checks tags only in a union of two types or more."""


@dataclass(frozen=True, slots=True)
class FastColumn:
    """One column of an event type: how to get its value from a decoded event, and to build the column from values."""

    name: str
    get: Callable[[Any], Any]
    build: Build


@dataclass(frozen=True, slots=True)
class EventDecoder:
    """Decodes one event type. `envelope` are the columns that all types share.

    `known` are the members allowed among the fields, `aliases` are older names of them.
    """

    event: Event
    tree: _Node
    envelope: tuple[FastColumn, ...]
    columns: tuple[FastColumn, ...]
    event_id: Callable[[Any], str | None]
    known: frozenset[str]
    aliases: frozenset[str]
    decoder: msgspec.json.Decoder[Any]


@dataclass(frozen=True, slots=True)
class TaggedDecoder:
    """Decodes any event of a plan in one step. Its type must be named at the top level and depend on nothing else."""

    classes: Mapping[str, type]
    decoder: msgspec.json.Decoder[Any]


@dataclass(frozen=True, slots=True)
class TypeDecoder:
    """Decodes only the members that determine an event's type."""

    paths: Sequence[str]
    key: Callable[[Any], Any]
    decoder: msgspec.json.Decoder[Any]

    def values(self, head: Any) -> dict[str, Any]:
        """Return path -> value."""
        key = self.key(head)
        return dict(zip(self.paths, key if len(self.paths) > 1 else (key,), strict=True))


class _Conflict(Exception):
    """Two columns read the same member in different ways, which only the scalar path can do."""


@dataclass(slots=True)
class _Node:
    """A JSON object of an event. Its members are objects, or the type of a leaf and whether it is required."""

    path: str = ""
    members: dict[str, _Node | tuple[Any, bool]] = field(default_factory=dict)

    def add(self, path: str, type_: Any, *, required: bool = False, shared: bool = False) -> None:
        """Add a leaf at a dotted path. *shared* leaves may be added twice."""
        *above, key = path.split(".")
        node = self.at(above)
        if key not in node.members:
            node.members[key] = (type_, required)
        elif not (shared and node.members[key] == (type_, required)):
            raise _Conflict(path)

    def at(self, keys: Sequence[str]) -> _Node:
        """Return the object at a path; create it if it is missing."""
        node = self
        for key in keys:
            inner = node.members.setdefault(key, _Node(f"{node.path}.{key}" if node.path else key))
            if not isinstance(inner, _Node):
                raise _Conflict(inner)
            node = inner
        return node

    def struct(self, strict: Callable[[str], bool], **options: Any) -> Any:
        """Return the msgspec type; *strict* returns whether unknown members of the object at a path are errors."""
        fields: list[Any] = []
        for index, member in enumerate(self.members.values()):
            if isinstance(member, _Node):
                inner = member.struct(strict)
                fields.append((f"m{index}", inner) if member.needed else (f"m{index}", inner, inner()))
            else:
                type_, required = member
                fields.append((f"m{index}", type_) if required else (f"m{index}", _optional(type_), None))
        return msgspec.defstruct(
            "Object", fields, rename={f"m{i}": key for i, key in enumerate(self.members)}, kw_only=True, frozen=True,
            gc=False, forbid_unknown_fields=strict(self.path), **options,
        )  # fmt: skip

    @property
    def needed(self) -> bool:
        """Whether any of its members is required."""
        return any(m.needed if isinstance(m, _Node) else m[1] for m in self.members.values())

    def attribute(self, path: str) -> str:
        """Return the attribute path of a leaf in the decoded object."""
        key, dot, rest = path.partition(".")
        name = f"m{list(self.members).index(key)}"
        inner = self.members[key]
        return f"{name}.{inner.attribute(rest)}" if dot and isinstance(inner, _Node) else name


def _optional(type_: Any) -> Any:
    return type_ if type_ is msgspec.Raw else Union[type_, None]  # noqa: UP007


def event_decoder(rules: Rules, rule: EventRule) -> EventDecoder | None:
    """Return the decoder of an event type, or None if the fast path cannot decode it."""
    try:
        return _event_decoder(rules, rule)
    except (_Conflict, ValueError, TypeError):  # msgspec refuses keys that contain a quote
        return None


def _event_decoder(rules: Rules, rule: EventRule) -> EventDecoder:
    names, tree = rules.envelope, _Node()
    prefix = names.fields + "." if names.fields else ""
    built = []
    for name, member, type_, build in _ENVELOPE:
        tree.add(getattr(names, member), type_)
        built.append((name, getattr(names, member), build))
    tree.add(names.event_id, _ID)
    for each in rule.fields:
        type_, build = field_decoder(each)
        tree.add(prefix + each.field.name, type_, required=each.field.required and type_ is not msgspec.Raw)
        built.append((each.field.name, prefix + each.field.name, build))
    if not _is_tagged(rules):
        tree.add(names.event_type, str | int, shared=True)
    for path, _ in rule.event.match:
        tree.add(path, str | int, shared=True)
    holder = tree.at(names.fields.split(".") if names.fields else ())
    aliases = frozenset(alias for each in rule.fields for alias in each.field.aliases)
    known = frozenset(holder.members) | (set() if names.fields or "." in names.event_type else {names.event_type})
    if aliases & known:
        raise _Conflict(rule.event.name)  # an alias of one field is also another member's name
    type_ = tree.struct(strict_objects(names))
    all_columns = tuple(FastColumn(name, attrgetter(tree.attribute(path)), build) for name, path, build in built)
    envelope, fields = all_columns[: len(_ENVELOPE)], all_columns[len(_ENVELOPE) :]
    event_id = attrgetter(tree.attribute(names.event_id))
    return EventDecoder(rule.event, tree, envelope, fields, event_id, known, aliases, msgspec.json.Decoder(type_))


def strict_objects(names: Envelope) -> Callable[[str], bool]:
    """Return which objects may not have unknown members: the one that holds the fields, and those inside it."""
    return lambda path: not names.fields or path == names.fields or path.startswith(names.fields + ".")


def _is_tagged(rules: Rules) -> bool:
    """Return whether one top-level member alone determines an event's type."""
    return not rules.matched and "." not in rules.envelope.event_type


def tagged_decoder(
    rules: Rules, decoders: Mapping[str, EventDecoder], strict: Callable[[str], bool] | None = None
) -> TaggedDecoder | None:
    """Return a decoder of all event types at once, or None if the plan does not allow one."""
    if not _is_tagged(rules) or not decoders:
        return None
    key = rules.envelope.event_type
    usable = {name: each for name, each in decoders.items() if key not in each.tree.members}
    strict = strict or strict_objects(rules.envelope)
    try:
        classes = {name: each.tree.struct(strict, tag_field=key, tag=name) for name, each in usable.items()}
        no_event = msgspec.defstruct("NoEvent", [], tag_field=key, tag=_NO_EVENT)
        any_of: Any = Union[tuple([no_event, *classes.values()])]  # noqa: UP007
        return TaggedDecoder(classes, msgspec.json.Decoder(any_of))
    except (ValueError, TypeError):
        return None


def type_decoder(rules: Rules) -> TypeDecoder | None:
    """Return the decoder of the members that determine an event's type, if each is text or a whole number."""
    tree, paths = _Node(), [rules.envelope.event_type]
    for event in rules.matched:
        for path, value in event.match:
            if isinstance(value, bool) or not isinstance(value, str | int):
                return None
            if path not in paths:
                paths.append(path)
    try:
        for path in paths:
            tree.add(path, str | int)
        type_ = tree.struct(lambda path: False)
    except (_Conflict, ValueError, TypeError):
        return None
    return TypeDecoder(paths, attrgetter(*(tree.attribute(path) for path in paths)), msgspec.json.Decoder(type_))


# -- fields ---------------------------------------------------------------------------------------


FieldDecoder = tuple[Any, Build]
"""The msgspec type that decodes a field's values, and how they become a column."""


def field_decoder(rule: FieldRule) -> FieldDecoder:
    """Return the type that decodes a field's values, and how they become a column.

    A field that msgspec cannot constrain as the plan does is decoded as raw JSON and converted one by one.
    """
    kind = rule.field.type.kind
    if kind in _SPECIAL:
        decoder = _SPECIAL[kind](rule)
    else:
        row = SCALARS.get(kind)
        decoder = None if row is None or row.decoded is None else _CONSTRAINED.get(row.decoded, _plain)(rule, row)
    if decoder is None:
        return msgspec.Raw, columns.one_by_one(rule)
    type_, build = decoder
    return type_, build if rule.default is None else columns.with_default(build, rule)


def _plain(rule: FieldRule, row: Scalar) -> FieldDecoder | None:
    return None if _is_constrained(rule) else (row.decoded, columns.unchanged(arrow_type(rule.field.type)))


def _string(rule: FieldRule, row: Scalar) -> FieldDecoder | None:
    field, build = rule.field, columns.unchanged(arrow_type(rule.field.type))
    if rule.low is not None or rule.high is not None:
        return None
    if field.enum:
        texts = [value for value in field.enum if isinstance(value, str)]
        if len(texts) < len(field.enum) or field.max_length is not None or rule.pattern is not None:
            return None
        return Literal[tuple(texts)], build
    if field.max_length is None and rule.pattern is None:
        return str, build
    return Annotated[str, msgspec.Meta(max_length=field.max_length, pattern=field.pattern)], build


def _whole(rule: FieldRule, row: Scalar) -> FieldDecoder | None:
    if rule.field.enum or rule.field.max_length is not None or rule.pattern is not None:
        return None
    low = row.low if rule.low is None else max(row.low, math.ceil(rule.low))
    high = row.high if rule.high is None else min(row.high, math.floor(rule.high))
    if low > high:
        return None
    return decoded_type(row, low, high), columns.unchanged(arrow_type(rule.field.type))


def _real(rule: FieldRule, row: Scalar) -> FieldDecoder | None:
    if rule.field.enum or rule.field.max_length is not None or rule.pattern is not None:
        return None
    if not isinstance(rule.low, float | None) or not isinstance(rule.high, float | None):
        return None
    return decoded_type(row, rule.low, rule.high), columns.unchanged(arrow_type(rule.field.type))


_CONSTRAINED: Mapping[Any, Callable[[FieldRule, Scalar], FieldDecoder | None]] = {
    str: _string, int: _whole, float: _real,
}  # fmt: skip
"""The Python type that a row decodes to -> how a field's constraints narrow it. Others allow no constraints."""


def _decimal(rule: FieldRule) -> FieldDecoder | None:
    if rule.field.enum or rule.field.max_length is not None or rule.pattern is not None:
        return None
    if rule.field.type.scale > columns.EXACT_SCALE:
        return None
    return float | str, columns.decimals(rule)


def _timestamp(rule: FieldRule) -> FieldDecoder | None:
    return None if _is_constrained(rule) else (int | str, columns.timestamps)


def _list(rule: FieldRule) -> FieldDecoder | None:
    """Decode lists of scalars that are stored as decoded."""
    item, field = rule.field.type.item, rule.field
    if item is None or field.enum or rule.low is not None or rule.high is not None:
        return None
    if field.pattern is not None or rule.default is not None or _item(item) is None:
        return None
    whole: Any = GenericAlias(list, (_optional(_item(item)),))
    if field.max_length is not None:
        whole = Annotated[whole, msgspec.Meta(max_length=field.max_length)]
    return whole, columns.unchanged(arrow_type(rule.field.type))


def _struct(rule: FieldRule) -> FieldDecoder | None:
    """Decode flat structs of scalars that are stored as decoded."""
    members = rule.field.type.fields
    if not members or _is_constrained(rule) or rule.default is not None:
        return None
    inner = [_item(type_) for _, type_ in members]
    if None in inner:
        return None
    slots = [f"m{index}" for index in range(len(members))]
    types: list[Any] = list(map(_optional, inner))
    type_ = msgspec.defstruct(
        "Struct", [(slot, type_, None) for slot, type_ in zip(slots, types, strict=True)],
        rename=dict(zip(slots, [name for name, _ in members], strict=True)), kw_only=True, frozen=True, gc=False,
        forbid_unknown_fields=True,
    )  # fmt: skip
    arrow = [pa.field(name, arrow_type(each)) for name, each in members]
    return type_, columns.structs(slots, arrow)


def _is_constrained(rule: FieldRule) -> bool:
    field = rule.field
    return bool(field.enum) or any(
        limit is not None for limit in (rule.low, rule.high, rule.pattern, field.max_length)
    )  # fmt: skip


def _item(type_: Type) -> Any:
    """Return the msgspec type of a value inside a list or a struct, or None if it has to be converted."""
    row = SCALARS.get(type_.kind)
    return None if row is None or row.decoded is None else decoded_type(row)


_SPECIAL: Mapping[str, Callable[[FieldRule], FieldDecoder | None]] = {
    "decimal": _decimal, "timestamp": _timestamp, "list": _list, "struct": _struct,
}  # fmt: skip
"""Kinds with a column builder of their own. A kind that is absent here still works, one value at a time."""
