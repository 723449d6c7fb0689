"""Where a project lies and how it behaves: one row per setting, from questlog.toml or QUESTLOG_… ."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from questlog.errors import ProjectNotFound, QuestlogError


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default; each also as QUESTLOG_<NAME> in the environment."""

    profile: str = "embedded"
    data: str = ".questlog"
    min_free_mb: int = 64
    land_seconds: float = 2.0
    batch_records: int = 50_000
    keep_log_hours: float = 24.0
    retry_after_seconds: float = 5.0
    query_seconds: float = 600.0
    query_memory_mb: int = 2048


@dataclass(frozen=True, slots=True)
class Project:
    """A project folder: `plan.toml`, settings, and the data under `data`."""

    root: Path
    settings: Settings

    @property
    def plan_path(self) -> Path:
        return self.root / "plan.toml"

    @property
    def data(self) -> Path:
        return self.root / self.settings.data  # an absolute setting replaces the root

    @property
    def log_folder(self) -> Path:
        return self.data / "log"

    @property
    def warehouse(self) -> Path:
        return self.data / "lake"

    @property
    def catalog(self) -> Path:
        return self.data / "catalog.db"


def find_project(start: str | Path = ".", **overrides: Any) -> Project:
    """Return the project whose plan.toml is in *start* or above it."""
    folder = Path(start).resolve()
    for root in (folder, *folder.parents):
        if (root / "plan.toml").exists():
            return Project(root, load_settings(root / "questlog.toml", **overrides))
    raise ProjectNotFound(
        f"no plan.toml in {folder} or above", hint="questlog init starts a project; questlog -C DIR names one"
    )


def load_settings(path: Path, **overrides: Any) -> Settings:
    """Return the settings: arguments over environment over file over defaults."""
    rows = {field.name: field for field in fields(Settings)}
    values: dict[str, Any] = {}
    if path.exists():
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise QuestlogError(f"{path}: not TOML: {error}") from error
    for name in rows:
        text = os.environ.get(f"QUESTLOG_{name.upper()}")
        if text is not None:
            values[name] = text
    values.update(overrides)
    faults = []
    for name, value in list(values.items()):
        if name not in rows:
            near = difflib.get_close_matches(name, rows, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            faults.append(f"unknown setting {name}{guess} Known: {', '.join(rows)}")
            continue
        kind: Any = type(rows[name].default)
        try:
            values[name] = kind(value)
        except (TypeError, ValueError):
            faults.append(f"{name}: {value!r} is no {kind.__name__}")
    if faults:
        raise QuestlogError("settings: " + "; ".join(faults), hint=f"see {path.name} and QUESTLOG_… variables")
    return Settings(**values)
