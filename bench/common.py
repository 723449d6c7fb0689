"""The format of benchmark results: goals, machine and versions, and where they are stored."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("questlog", "duckdb", "pyarrow", "pyiceberg", "msgspec", "flask", "gunicorn", "granian")


@dataclass(frozen=True)
class Goal:
    """One question with its goal and result: a line of `docs/reference/benchmarks.md`.

    A *unit* of "" means a ratio. *at_most*: less is better.
    """

    question: str
    goal: float
    found: float
    unit: str = ""
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.found <= self.goal if self.at_most else self.found >= self.goal


def machine() -> dict[str, Any]:
    """Return the environment of the run: processors, memory, load before the run, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "cpu": _processor(),
        "memory mb": memory,
        "kernel": platform.release().split("-")[0],
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            continue
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the largest of *values*."""
    ordered = sorted(values)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "max": round(ordered[-1], 2),
    }


def save(name: str, result: dict[str, Any], goals: Sequence[Goal]) -> None:
    """Print *result* and write it to `bench/results/<name>.json` with its goals, the machine and the command."""
    rows = [{**asdict(goal), "met": goal.met} for goal in goals]
    whole = {"command": " ".join(["python", *sys.argv]), "goals": rows, **result, "machine": machine()}
    text = json.dumps(whole, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
