"""Read a project's tables in a fresh process, with our SQL or with plain PyIceberg."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

TABLES = ("default", "sword_purchases", "join_guild")


def main() -> None:
    """Print the marks and how often each occurs.  argv: project folder, column of the marks, `sql` or `iceberg`."""
    _, folder, column, reader = sys.argv
    print(json.dumps(sql_marks(folder, column) if reader == "sql" else iceberg_marks(folder, column)))


def sql_marks(folder: str, column: str) -> dict[str, int]:
    """Return the marks as a user's query returns them, including the tail."""
    import questlog

    parts = " union all ".join(f'select {column} as mark from "{table}"' for table in TABLES)
    return dict(questlog.open(folder).sql(f"select mark, count(*) from ({parts}) group by 1").rows())


def iceberg_marks(folder: str, column: str) -> dict[str, int]:
    """Return the landed marks as plain PyIceberg reads them, with its own file access."""
    from pyiceberg.catalog.sql import SqlCatalog

    import questlog

    data: Path = questlog.open(folder).project.data
    catalog = SqlCatalog("questlog", uri=f"sqlite:///{data / 'catalog.db'}", warehouse=str(data / "lake"))
    marks: Counter[Any] = Counter()
    for identifier in catalog.list_tables("questlog") if catalog.list_namespaces() else ():
        rows = catalog.load_table(identifier).scan().to_arrow()
        if column in rows.column_names:
            marks.update(rows[column].to_pylist())
    return dict(marks)
