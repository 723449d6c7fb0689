"""May several events share what they share? Asked of a whole plan, once each event is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from questlog.plan import Event, Type

Where = tuple[str | int, ...]


def shared_faults(events: Mapping[str, Event]) -> Iterator[tuple[Where, str]]:
    """Yield where events of one table disagree about a column, and which event can never be told."""
    yield from _columns(events)
    yield from _aliases(events)
    yield from _matches(events)


def _columns(events: Mapping[str, Event]) -> Iterator[tuple[Where, str]]:
    seen: dict[tuple[str, str], tuple[str, Type]] = {}
    for event in events.values():
        for field in event.fields:
            name, type_ = seen.setdefault((event.table, field.name), (event.name, field.type))
            if type_ != field.type:
                yield (
                    ("events", event.name, "fields", field.name),
                    f"is {field.type} here and {type_} in event {name}, both in table {event.table};"
                    " give both one type, or one of them another name or table",
                )


def _aliases(events: Mapping[str, Event]) -> Iterator[tuple[Where, str]]:
    """A column can be renamed only if no event of its table still has it by the old name."""
    columns = {(event.table, field.name): event.name for event in events.values() for field in event.fields}
    for event in events.values():
        for field in event.fields:
            for index, alias in enumerate(field.aliases):
                other = columns.get((event.table, alias), event.name)
                if other != event.name:
                    yield (
                        ("events", event.name, "fields", field.name, "aliases", index),
                        f"{alias!r} is still a field of event {other}, in the same table {event.table};"
                        " rename it there too",
                    )


def _matches(events: Mapping[str, Event]) -> Iterator[tuple[Where, str]]:
    """Of events that match the first one counts, so a later one must not be a special case of it."""
    earlier: list[Event] = []
    for event in events.values():
        if not event.match:
            continue
        wanted = dict(event.match)
        for other in earlier:
            if all(path in wanted and _same(wanted[path], value) for path, value in other.match):
                yield (
                    ("events", event.name, "match"),
                    f"never counts: all of these are {other.name} already, which stands before it",
                )
                break
        earlier.append(event)


def _same(one: object, other: object) -> bool:
    return isinstance(one, bool) is isinstance(other, bool) and one == other
