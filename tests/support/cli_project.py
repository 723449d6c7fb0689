"""Commands run as users run them, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from questlog.accept import accept
from questlog.pipeline import Pipeline, open_pipeline

PLAN = """
[events.hit]
description = "A blow struck home."

[events.hit.fields]
damage = { type = "int", min = 0 }
"""


@dataclass
class Project:
    """A project folder and the commands run in it."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def pipeline(self) -> Pipeline:
        return open_pipeline(self.folder)

    def send(self, *bodies: str) -> None:
        """Log events as a server does."""
        pipeline = self.pipeline
        events = [body.encode() for body in bodies]
        pipeline.log.append(accept(events, pipeline.plan, received_ms=time.time_ns() // 1_000_000).records)
        pipeline.log.close()  # type: ignore[attr-defined]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to completion."""
        environment = {**os.environ, **options.pop("environment", {})}
        argv = [sys.executable, "-m", "questlog", "-C", str(self.folder), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=180, env=environment, **options)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that keeps running."""
        argv = [sys.executable, "-m", "questlog", "-C", str(self.folder), *arguments]
        with (self.folder / "err").open("ab") as errors:
            process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
                env={**os.environ, "QUESTLOG_LAND_SECONDS": "0.1"},
            )  # fmt: skip
        self.started.append(process)
        return process

    def error_output(self) -> str:
        """Return the standard error of the commands that were started."""
        return (self.folder / "err").read_text()
