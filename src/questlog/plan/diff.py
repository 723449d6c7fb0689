"""Compares two plans: each change, and its effect on the tables that the old plan made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from questlog.plan import Envelope, Event, Field, Plan
from questlog.plan.columns import Column, header_column, table_columns
from questlog.plan.evolve import column_change
from questlog.plan.load import dotted
from questlog.plan.render import toml

Kind = Literal["breaking", "widening", "additive", "neutral"]
KINDS: tuple[Kind, ...] = ("breaking", "widening", "additive", "neutral")
"""Worst first. Only "breaking" is refused; "neutral" does not change the tables' columns."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """One difference: its path, what it is, and its effect on existing tables and future events."""

    kind: Kind
    path: str
    what: str
    effect: str


def diff_plans(old: Plan, new: Plan) -> list[PlanChange]:
    """Return every change from *old* to *new*, the worst first; none if both mean the same."""
    changes = [*_events(old, new), *_columns(old, new), *_headers(old, new), *_rules(old, new), *_rest(old, new)]
    return sorted(changes, key=lambda change: KINDS.index(change.kind))


def _events(old: Plan, new: Plan) -> Iterator[PlanChange]:
    for name, event in new.events.items():
        path = dotted(("events", name))
        before = old.events.get(name)
        if before is not None and before.table == event.table:
            continue
        exists = event.table in old.tables
        effect = f"its rows go to table {event.table}, which " + (
            "exists" if exists else "is created with its first row"
        )
        if before is None:
            yield PlanChange("additive", path, "new event", effect)
        else:
            effect += f"; existing rows stay in table {before.table}"
            yield PlanChange("additive", f"{path}.table", f"{before.table} -> {event.table}", effect)
    for name in sorted(old.events.keys() - new.events.keys()):
        event = old.events[name]
        effect = f"table {event.table} keeps its rows; new events of this type are quarantined as unknown"
        yield PlanChange("neutral", dotted(("events", name)), "event removed", effect)


def _columns(old: Plan, new: Plan) -> Iterator[PlanChange]:
    """Compare table by table: events that share a table share its columns."""
    for table in new.tables:
        if table not in old.tables:
            continue
        before = {column.name: column for column in table_columns(old, table)}
        after = {column.name: column for column in table_columns(new, table)}
        headers = {header_column(header) for header in (*old.headers, *new.headers)}
        for column in after.values():
            former = _former(column, before, after)
            if former is not None or column.name not in headers:
                yield from _column(new, table, column, former)
        renamed = {former.name for c in after.values() if (former := _former(c, before, after)) is not None}
        for name in sorted(before.keys() - after.keys() - renamed - headers):
            path = _path(old, table, name)
            if any(path.startswith(dotted(("events", event, "fields"))) for event in new.events):
                effect = f"column {name} of table {table} keeps its values; later values go to _rescued"
                yield PlanChange("neutral", path, "field removed", effect)


def _former(column: Column, before: Mapping[str, Column], after: Mapping[str, Column]) -> Column | None:
    """Return the column that *column* was before: of the same name, or of an alias that no field uses any more."""
    if column.name in before:
        return before[column.name]
    return next((before[alias] for alias in column.aliases if alias in before and alias not in after), None)


def _column(plan: Plan, table: str, column: Column, former: Column | None) -> Iterator[PlanChange]:
    path = _path(plan, table, column.name)
    if former is None:
        effect = f"column {column.name} is added to table {table}, NULL in existing rows"
        yield PlanChange("additive", path, f"new field, {column.type}", effect)
        return
    if former.name != column.name:
        effect = f"column {former.name} of table {table} is renamed and keeps its values; senders may use both names"
        yield PlanChange("additive", path, f"renamed from {former.name}", effect)
    change = column_change(former.type, column.type)
    what = f"{former.type} -> {column.type}"
    if change == "breaking":
        effect = (
            f"refused when landing starts: column {former.name} of table {table} cannot become it. Keep {former.type},"
            f" or leave {former.name} as it is and add a field with a new name, e.g. {column.name}_{column.type.kind}"
        )
        yield PlanChange("breaking", f"{path}.type", what, effect)
    elif change == "widening":
        effect = f"column {column.name} of table {table} is widened at the next landing; every existing value stays"
        yield PlanChange("widening", f"{path}.type", what, effect)
    elif former.type != column.type:
        effect = f"column {column.name} of table {table} already holds such values"
        yield PlanChange("neutral", f"{path}.type", what, effect)


def _path(plan: Plan, table: str, column: str) -> str:
    """Return where the plan declares a column of a table."""
    for event in plan.tables[table]:
        if any(field.name == column for field in event.fields):
            return dotted(("events", event.name, "fields", column))
    return "headers.keep"


def _headers(old: Plan, new: Plan) -> Iterator[PlanChange]:
    before = {header_column(header): header for header in old.headers}
    after = {header_column(header): header for header in new.headers}
    for column in sorted(after.keys() - before.keys()):
        effect = f"column {column} is added to every table, NULL in existing rows"
        yield PlanChange("additive", "headers.keep", f"new header {after[column]}", effect)
    for column in sorted(before.keys() - after.keys()):
        effect = f"column {column} keeps its values and is NULL in later rows"
        yield PlanChange("neutral", "headers.keep", f"header {before[column]} removed", effect)


def _rules(old: Plan, new: Plan) -> Iterator[PlanChange]:
    """Yield changes of the rules that decide which events fit, and of descriptions."""
    for name, event in new.events.items():
        before = old.events.get(name)
        if before is None:
            continue
        path = dotted(("events", name))
        yield from _options(path, before, event, ("mode", "description", "owner", "match"))
        by_name = {field.name: field for field in before.fields}
        names = {field.name for field in event.fields}
        for field in event.fields:
            former = by_name.get(field.name) or next(
                (by_name[alias] for alias in field.aliases if alias in by_name and alias not in names), None
            )
            if former is not None:
                yield from _options(dotted(("events", name, "fields", field.name)), former, field, _FIELD_OPTIONS)


_FIELD_OPTIONS = tuple(field.name for field in fields(Field) if field.name not in ("name", "type"))
_EFFECTS = {
    "description": "the comment of its column or table changes",
    "mode": "existing rows stay; it applies to later events that do not fit",
    "match": "existing rows stay; it identifies later events",
    "default": "existing rows stay; later events without the field get it",
    "aliases": "senders may use these names as well",
}
_DESCRIPTIVE = ("owner", "pii", "deprecated")


def _options(path: str, old: Event | Field, new: Event | Field, names: tuple[str, ...]) -> Iterator[PlanChange]:
    for name in names:
        one, other = getattr(old, name), getattr(new, name)
        if one == other:
            continue
        effect = "existing rows stay; the event's mode decides about later events that do not fit"
        effect = "nothing changes in the tables" if name in _DESCRIPTIVE else _EFFECTS.get(name, effect)
        yield PlanChange("neutral", f"{path}.{name}", f"{_shown(one)} -> {_shown(other)}", effect)


def _shown(value: Any) -> str:
    if value is None or value == () or value == "":
        return "none"
    if isinstance(value, tuple) and all(isinstance(item, tuple) for item in value):
        return toml(dict(value))
    return toml(value)


def _rest(old: Plan, new: Plan) -> Iterator[PlanChange]:
    for field in fields(Envelope):
        one, other = getattr(old.envelope, field.name), getattr(new.envelope, field.name)
        if one != other:
            effect = "existing rows stay; later events are read there"
            yield PlanChange("neutral", f"envelope.{field.name}", f"{toml(one)} -> {toml(other)}", effect)
    for route in sorted(old.routes.keys() | new.routes.keys()):
        before, after = old.routes.get(route), new.routes.get(route)
        if before != after:
            what = f"{before or 'none'} -> {after or 'none'}"
            yield PlanChange("neutral", dotted(("routes", route)), what, "later requests record this event")
    for name, path in (("game", "game.name"), ("description", "game.description"), ("dedup_hours", "game.dedup_hours")):
        one, other = getattr(old, name), getattr(new, name)
        if one != other:
            yield PlanChange("neutral", path, f"{_shown(one)} -> {_shown(other)}", "nothing changes in the tables")
    orders = [[name for name, event in plan.events.items() if event.match] for plan in (old, new)]
    if orders[0] != orders[1] and set(orders[0]) == set(orders[1]):
        effect = "if several of them match an event, the first counts"
        yield PlanChange("neutral", "events", f"order {', '.join(orders[1])}", effect)
