"""New tables under the current plan, in a project of their own, filled from another project's log or from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from questlog.backfill import BackfillResult, Shown
from questlog.backfill.bounds import Bound
from questlog.durable import make_folder, write_file
from questlog.errors import QuestlogError
from questlog.log import LogReader
from questlog.plan import Plan
from questlog.settings import Project
from questlog.stopping import StopSignal

READ_RECORDS, READ_BYTES = 5_000, 24 << 20
_MARK = "backfill.json"


class LogLines:
    """One partition of a log to import, a line per offset: blank where there is no record between the bounds."""

    fixed = True

    def __init__(self, log: LogReader, partition: int, start: Bound, end: Bound) -> None:
        self.name = f"partition {partition}"
        self._log, self._partition, self._start, self._end = log, partition, start, end
        self._ends = dict(log.end())
        self.size: int | None = self._ends[partition]
        self._at = 0

    def read(self) -> int:
        """Return the offset up to which lines were read."""
        return self._at

    def lines(self) -> Iterator[bytes]:
        """Yield each offset's record."""
        position, until = {**self._ends, self._partition: 0}, self._ends[self._partition]
        while self._at < until:
            batch = self._log.read(position, READ_RECORDS, READ_BYTES)
            for entry in batch.entries:
                if entry.partition != self._partition or entry.offset >= until:
                    continue
                yield from self._blank(entry.offset)
                self._at = entry.offset + 1
                yield entry.value if self._is_within(entry.offset, entry.received_ms) else b""
            following = batch.through.get(self._partition, 0)
            if following <= position[self._partition]:
                return
            yield from self._blank(min(following, until))
            position[self._partition] = following

    def _blank(self, offset: int) -> Iterator[bytes]:
        while self._at < offset:
            self._at += 1
            yield b""

    def _is_within(self, offset: int, received_ms: int) -> bool:
        start, end, partition = self._start, self._end, self._partition
        return (
            start.offsets.get(partition, 0) <= offset < end.offsets.get(partition, offset + 1)
            and (start.ms is None or received_ms >= start.ms)
            and (end.ms is None or received_ms < end.ms)
        )


Fill = Callable[[Path, Sequence[str], Sequence[tuple[str, LogLines]], StopSignal, Shown], BackfillResult]
"""`importer.fill_project`."""


class ProjectBackfill:
    """Fills the project in folder *into*, creating it if it does not exist. Run again, it resumes where it stopped.

    The events come from *files* or, if there are none, from the log of *project*.
    """

    def __init__(
        self, project: Project, plan: Plan, log: LogReader, into: Path, files: Sequence[str], *, fill: Fill
    ) -> None:
        self._project, self._plan, self._log = project, plan, log
        self._into, self._files, self._fill = into.resolve(), files, fill

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> BackfillResult:
        """1 create the project  2 fill its log, and land it."""
        self._create()
        lines = [] if self._files else list(self._lines(start, end))
        return self._fill(self._into, self._files, lines, stop, shown)

    def _lines(self, start: Bound, end: Bound) -> Iterator[tuple[str, LogLines]]:
        """Yield each partition of the log, under the name by which the import remembers it."""
        for partition in sorted(self._log.end()):
            yield f"log:{self._project.log_folder}:{partition}", LogLines(self._log, partition, start, end)

    def _create(self) -> None:
        """Create the project with our plan; refuse a folder that holds anything else."""
        mark = self._into / ".questlog" / _MARK
        if not mark.exists():
            if self._into.exists() and any(self._into.iterdir()):
                raise QuestlogError(f"{self._into} exists, and no backfill created it", hint="--into a new folder")
            make_folder(mark.parent)
            write_file(mark, json.dumps({"from": str(self._project.root)}))
        if not (self._into / "plan.toml").exists():
            write_file(self._into / "plan.toml", self._plan.text)
        if (self._into / "plan.toml").read_text("utf-8") != self._plan.text:
            raise QuestlogError(
                f"{self._into} was begun under another plan",
                hint="--into a new folder; the events in this one were shaped with the plan.toml in it",
            )
