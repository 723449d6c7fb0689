"""Where a project lies and how it behaves: one row per setting, from questlog.toml or QUESTLOG_… ."""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from questlog.errors import ProjectNotFound, QuestlogError


def _row(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting with its default; each also as QUESTLOG_<NAME> in the environment."""

    profile: str = _row("embedded", "Which parts are put together; `embedded` needs no server.")
    data: str = _row(".questlog", "Where the data lies: a folder beside plan.toml, or an absolute path.")
    min_free_mb: int = _row(64, "The watermark: with fewer MiB free on the log's disk, events are refused with 503.")
    retry_after_seconds: float = _row(5.0, "What a refused sender is told to wait, in Retry-After.")
    land_seconds: float = _row(2.0, "How long a lander under load lets a batch gather. Queries do not wait for it.")
    batch_records: int = _row(50_000, "How many records one landing takes at most.")
    keep_log_hours: float = _row(24.0, "How long the log keeps what is landed.")
    query_seconds: float = _row(600.0, "After how long a query is stopped.")
    query_memory_mb: int = _row(2048, "How much memory a query may use.")
    stack_ports: str = _row(
        "", "`questlog stack`: ports other than the usual, as `kafka=19092 presto=18080`; or `free`."
    )


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
    rows = {row.name: row for row in fields(Settings)}
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
            continue
        if kind is not str and not 0 <= values[name] < math.inf:
            faults.append(f"{name}: {value!r} is not 0 or more")
    if faults:
        raise QuestlogError("settings: " + "; ".join(faults), hint=f"see {path.name} and QUESTLOG_… variables")
    return Settings(**values)
