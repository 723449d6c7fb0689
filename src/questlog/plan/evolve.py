"""Schema evolution: what a column can become without losing a value."""

from __future__ import annotations

from typing import Literal

from questlog.types import SCALARS, Type

Change = Literal["same", "widening", "breaking"]

_RANK: dict[Change, int] = {"same": 0, "widening": 1, "breaking": 2}


def column_change(old: Type, new: Type) -> Change:
    """Return how a column of type *old* must change to hold values of type *new*.

    "same": not at all. "widening": in place; old files stay readable and every value keeps its meaning.
    "breaking": it cannot; the field needs another name. A struct that lost members is "same": the column keeps them
    for the rows that have them.
    """
    if old == new:
        return "same"
    if old.kind in SCALARS and new.kind in SCALARS:
        return _scalar_change(old.kind, new.kind)
    if old.kind != new.kind:
        return "breaking"
    if old.kind == "decimal":
        return "widening" if old.scale == new.scale and old.precision < new.precision else "breaking"
    if old.kind in ("list", "map"):
        assert old.item is not None and new.item is not None
        return column_change(old.item, new.item)
    return _struct_change(dict(old.fields), dict(new.fields))


def _scalar_change(old: str, new: str) -> Change:
    """Compare two rows by how columns store them: types that share an Iceberg type share their columns."""
    stored = SCALARS[new].iceberg
    if SCALARS[old].iceberg == stored:
        return "same"
    return "widening" if any(SCALARS[name].iceberg == stored for name in SCALARS[old].wider) else "breaking"


def _struct_change(old: dict[str, Type], new: dict[str, Type]) -> Change:
    changes: list[Change] = [column_change(old[name], type_) for name, type_ in new.items() if name in old]
    if new.keys() - old.keys():
        changes.append("widening")
    return max(changes, key=_RANK.__getitem__, default="same")


def widest(old: Type, new: Type) -> Type:
    """Return the type that holds values of both; raise ValueError if there is none.

    During a rolling deployment, old and new plans land in the same table, so its columns only widen.
    """
    if column_change(old, new) == "same" and old.kind != "struct":
        return old
    if old.kind in ("list", "map") and old.kind == new.kind:
        assert old.item is not None and new.item is not None
        return Type(old.kind, item=widest(old.item, new.item))
    if old.kind == new.kind == "struct":
        members, others = dict(old.fields), dict(new.fields)
        merged = {name: widest(members.get(name, type_), type_) for name, type_ in others.items()}
        return Type("struct", fields=tuple({**members, **merged}.items()))
    if column_change(old, new) == "widening":
        return new
    if column_change(new, old) == "widening":
        return old
    raise ValueError(f"no column holds both {old} and {new}")
