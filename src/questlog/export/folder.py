"""The embedded export: one file per day in a local folder, each replaced in one step."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from questlog.durable import replacing, sync_folder
from questlog.errors import QuestlogError
from questlog.export import Exported, Shown, day_key
from questlog.plan.columns import EVENTS_VIEW
from questlog.query.duckdb import DuckDBEngine
from questlog.query.text import quote_name
from questlog.stopping import StopSignal

FILE = "data.parquet"
_SOURCE = "questlog.source"
_DAY = re.compile(r"=(\d{4}-\d\d-\d\d)/[^/]+$")


class FolderExport:
    """Writes every acknowledged event, landed or not, to `<table>/day=2026-11-24/data.parquet` below *folder*."""

    def __init__(self, engine: DuckDBEngine, folder: Path) -> None:
        self._engine, self._folder = engine, folder

    def run(self, tables: Sequence[str], stop: StopSignal, shown: Shown) -> dict[str, Exported]:
        """Write the changed days of *tables*, or of all tables; return what was written, even if stopped early."""
        columns = {name: each for name, each in self._engine.tables().items() if name != EVENTS_VIEW}
        if unknown := sorted(set(tables) - set(columns)):
            raise QuestlogError(f"there is no table {unknown[0]}", hint="questlog sql 'show tables'")
        names = list(tables) or sorted(columns)
        sources = {name: self._days(name, repr(columns[name])) for name in names}
        total, done, exported = sum(map(len, sources.values())), 0, {name: Exported() for name in names}
        for name, days in sources.items():
            key, one = day_key(column.name for column in columns[name]), exported[name]
            for day, source in sorted(days.items()):
                if stop.is_set():
                    return exported
                path = self._folder / name / f"{key}={day}" / FILE
                if _source_of(path) == source:
                    one.unchanged += 1
                else:
                    one.rows += self._write(name, day, path, source)
                    one.written.append(day)
                done += 1
                shown(sum(each.rows for each in exported.values()), done, total)
            one.dropped = _drop(self._folder / name, key, days)
        return exported

    def _days(self, table: str, columns: str) -> dict[str, str]:
        """Return each day that has rows, with a digest of their source, which changes if the rows may have."""
        state, tail = self._engine.holdings()
        parts: dict[str, list[str]] = {}
        for path in state.tables[table].files if table in state.tables else ():
            match = _DAY.search(path)
            if match is None:
                raise QuestlogError(f"{path} is not in the folder of a day", hint="questlog doctor")
            parts.setdefault(match[1], []).append(path)
        if table in tail:
            rows = tail[table]
            days = rows.column("received_time").cast(pa.date32(), safe=False).cast(pa.string())
            for day in pc.unique(days).to_pylist():
                parts.setdefault(day, []).extend(rows.column("event_id").filter(pc.equal(days, day)).to_pylist())
        return {
            day: hashlib.sha256("\n".join([columns, *sorted(sources)]).encode()).hexdigest()[:16]
            for day, sources in parts.items()
        }

    def _write(self, table: str, day: str, path: Path, source: str) -> int:
        """Write a day's file and return its number of rows.  1 write a draft  2 fsync  3 rename"""
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = 0
        with replacing(path) as file:
            writer = None
            for part in self._parts(table, day):
                if writer is None:
                    writer = pq.ParquetWriter(
                        file, part.schema, compression="snappy", use_deprecated_int96_timestamps=True,
                        store_schema=False,
                    )  # fmt: skip
                writer.write_table(part)
                rows += part.num_rows
            assert writer is not None
            writer.add_key_value_metadata({_SOURCE: source})
            writer.close()
        return rows

    def _parts(self, table: str, day: str) -> Iterator[pa.Table]:
        """Yield a day's rows by the hour, to limit how many are in memory."""
        start = dt.datetime.fromisoformat(day)
        statement = (
            f"select * from {quote_name(table)} where received_time >= $1 and received_time < $2"
            " order by received_time, event_id"
        )
        for hour in range(24):
            begin = start + dt.timedelta(hours=hour)
            part = self._engine.sql(statement, [begin, begin + dt.timedelta(hours=1)])
            if part.num_rows or not hour:
                yield part


def _source_of(path: Path) -> str:
    """Return the digest in a day's file; "" if the file is missing or was not written by an export."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return ""
    return str(metadata.get(_SOURCE.encode(), b"").decode())


def _drop(folder: Path, key: str, days: Mapping[str, str]) -> list[str]:
    """Delete the files of days without rows; return these days."""
    gone = []
    for path in folder.glob(f"{key}=*/{FILE}"):
        day = path.parent.name.partition("=")[2]
        if day not in days and _source_of(path):
            path.unlink()
            sync_folder(path.parent)
            gone.append(day)
    return sorted(gone)
