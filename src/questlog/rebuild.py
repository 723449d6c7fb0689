"""New tables, by the plan of now, in a project of their own: its log is filled from another one's, or from files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from questlog.errors import QuestlogError
from questlog.importer import Import, Lines, Source
from questlog.land import StopSignal
from questlog.land.part import Bound, Filled, Shown
from questlog.log import LogReader
from questlog.pipeline import Pipeline, open_pipeline

READ_RECORDS, READ_BYTES = 5_000, 24 << 20
_MARK = "backfill.json"


class LogLines:
    """One partition of a log, a line per offset: blank where there is no record, or none between the bounds."""

    fixed = True

    def __init__(self, log: LogReader, partition: int, start: Bound, end: Bound) -> None:
        self.name = f"partition {partition}"
        self._log, self._partition, self._start, self._end = log, partition, start, end
        self._ends = dict(log.end())
        self.size: int | None = self._ends[partition]
        self._at = 0

    def read(self) -> int:
        """Return up to which offset lines were taken."""
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


class ProjectBackfill:
    """Fills the project in folder *into*, made if it is not there; interrupted, it goes on where it stopped."""

    def __init__(self, pipeline: Pipeline, into: Path, files: Sequence[str]) -> None:
        self._pipeline, self._into, self._files = pipeline, into.resolve(), files

    def run(self, start: Bound, end: Bound, stop: StopSignal, shown: Shown) -> Filled:
        """1 make the project  2 fill its log  3 land it."""
        self._make()
        done = Filled()
        with open_pipeline(self._into, profile="embedded", data=".questlog") as target:
            for name, source in self._sources(start, end):
                earlier = done.records
                for step in Import(target, source, name=name, fresh=True).run():
                    done.records = earlier + step.events
                    shown(done.records, step.read, step.size or 0)
                    if stop.is_set():
                        return done
            with target.lander() as lander:
                landed = lander.drain(stop, lambda landed, total: shown(landed, landed, total))
            done.rows, done.duplicates = landed.rows, landed.duplicates
            target.log.close()
        return done

    def _sources(self, start: Bound, end: Bound) -> Iterator[tuple[str, Lines]]:
        """Yield what is read, under the name by which the import remembers it."""
        for file in self._files:
            source = Source(file)
            yield str(Path(file).resolve()), source
            source.close()
        if not self._files:
            for partition in sorted(self._pipeline.log.end()):
                name = f"log:{self._pipeline.project.log_folder}:{partition}"
                yield name, LogLines(self._pipeline.log, partition, start, end)

    def _make(self) -> None:
        """Make the project, with this one's plan; refuse a folder that holds anything else."""
        plan, mark = self._pipeline.plan.text, self._into / ".questlog" / _MARK
        if not mark.exists():
            if self._into.exists() and any(self._into.iterdir()):
                raise QuestlogError(f"{self._into} is there, and no backfill made it", hint="--into a new folder")
            mark.parent.mkdir(parents=True, exist_ok=True)
            _write(mark, json.dumps({"from": str(self._pipeline.project.root)}))
        if not (self._into / "plan.toml").exists():
            _write(self._into / "plan.toml", plan)
        if (self._into / "plan.toml").read_text("utf-8") != plan:
            raise QuestlogError(
                f"{self._into} was begun under another plan",
                hint="--into a new folder; what the old one holds was shaped by the plan that lies there",
            )


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
