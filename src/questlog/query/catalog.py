"""The names a query may use: each table, the view `events` over all of them, and the nearest name to a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from questlog.errors import QueryError
from questlog.plan import Plan
from questlog.plan.columns import EVENTS_VIEW, QUARANTINE_TABLE, header_column
from questlog.query.views import ViewColumn, events_columns

TableColumns = Mapping[str, Sequence[ViewColumn]]
"""Name of each table -> its columns."""


def event_tables(tables: TableColumns) -> dict[str, Sequence[ViewColumn]]:
    """Return those of *tables* that hold events of the plan: not quarantine, not the view over all of them."""
    return {name: columns for name, columns in tables.items() if name not in (EVENTS_VIEW, QUARANTINE_TABLE)}


def shared_columns(plan: Plan, tables: TableColumns) -> list[ViewColumn]:
    """Return the columns of the view `events`: those that every event table has."""
    return events_columns(event_tables(tables), [header_column(header) for header in plan.headers])


def find_table(name: str, tables: TableColumns) -> tuple[str, Sequence[ViewColumn]]:
    """Return a table's own spelling and its columns; *name* may be in any case. Raise `QueryError` if there is none."""
    for table, columns in tables.items():
        if table.lower() == name.lower():
            return table, columns
    raise unknown_table(name, tables)


def unknown_table(name: str, tables: Iterable[str]) -> QueryError:
    """Return the error for a table that does not exist, with the name that is nearest."""
    nearest = difflib.get_close_matches(name, list(tables), 1)
    guess = f"; did you mean {nearest[0]}?" if nearest else ""
    return QueryError(f"there is no table {name}{guess}", hint="questlog sql 'show tables'")
