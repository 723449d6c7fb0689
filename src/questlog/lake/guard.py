"""Refuses what would destroy data: landing in a copied or moved project, creating a catalog over existing tables.

The catalog and Iceberg's metadata name files by absolute path, so a copied project still refers to the files of the
original.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from questlog.errors import ProjectMoved, QuestlogError

_LAKE = "lake"
_METADATA = "*/*/metadata/*.metadata.json"


def check_root(connection: sqlite3.Connection, warehouse: Path) -> tuple[str, ...]:
    """Return every spelling of *warehouse* in the catalog's paths; raise `ProjectMoved` if a path lies elsewhere.

    Spellings differ if the path contains a symbolic link or `QUESTLOG_DATA` is written differently. Only the folder
    itself counts.
    """
    roots = [_plain(warehouse)]
    rows = connection.execute(
        "select table_namespace, table_name, metadata_location from iceberg_tables union all"
        " select ?1, table_name, path from questlog_files",
        ("questlog",),
    )
    for namespace, table, location in rows:
        if inside(location, roots) is None:
            root = _plain(location).rpartition(f"/{namespace}/{table}/")[0] or os.path.dirname(location)
            if not _same_folder(root, warehouse):
                raise _moved(root, warehouse)
            roots.append(root)
    return tuple(roots)


def inside(path: str | Path, roots: Sequence[str]) -> str | None:
    """Return *path* relative to the one of *roots* that it lies in, None if it lies in none of them."""
    plain = _plain(path)
    return next((plain[len(root) + 1 :] for root in roots if plain.startswith(f"{root}/")), None)


def check_inside(path: str | Path, roots: Sequence[str]) -> None:
    """Raise `ProjectMoved` unless *path* lies in one of *roots*."""
    if inside(path, roots) is None:
        raise ProjectMoved(f"{path} is outside the lake folder {roots[0]}; nothing is written", hint="questlog doctor")


def check_not_lost(catalog: Path) -> None:
    """Raise if *catalog* does not exist although the lake beside it holds tables."""
    if not catalog.exists():
        check_no_tables(catalog)


def check_no_tables(catalog: Path) -> None:
    """Raise if the lake beside *catalog*, which is missing or empty, holds tables."""
    table = next((catalog.parent / _LAKE).glob(_METADATA), None)
    if table is not None:
        raise QuestlogError(
            f"{catalog} is missing or empty, but {catalog.parent / _LAKE} holds tables that only it can name",
            hint="restore catalog.db from a backup; to start over without these tables, move the lake folder away",
        )


def _plain(location: str | Path) -> str:
    """Return a path without `file:`, `..` and doubled slashes."""
    text = str(location)
    if text.startswith("file:"):
        text = "/" + text.removeprefix("file:").lstrip("/")
    return os.path.normpath(text)


def _same_folder(root: str, warehouse: Path) -> bool:
    try:
        return os.path.samefile(root, warehouse)
    except OSError:
        return False


def _moved(root: str, warehouse: Path) -> ProjectMoved:
    if os.path.exists(root):
        what, hint = "is a copy", "use the original project; to start this copy empty, delete its data folder"
    else:
        what, hint = "was moved", f"move it back, or link its old path to the new one: ln -s {warehouse} {root}"
    return ProjectMoved(
        f"this project {what}: its catalog names files in {root}, not in {warehouse}."
        " It can be neither landed nor queried, because landing would change or delete those files",
        hint=hint,
    )
