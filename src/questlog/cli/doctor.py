"""`questlog doctor`: is this machine, and this project's data, as questlog needs them?"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from questlog.cli.rows import human_bytes
from questlog.cli.terminal import uses_color
from questlog.errors import NotInstalled, QuestlogError
from questlog.pipeline import Pipeline, open_pipeline

_SYNCS = 20
_FAST_MS, _SLOW_MS = 0.01, 50.0
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "glusterfs", "ceph"}
_PACKAGES = ("duckdb", "msgspec", "pyarrow", "pyiceberg", "pyiceberg-core", "flask")
_COLORS = {"ok": "green", "warning": "yellow", "fault": "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `ok`, `warning` or `fault`, and what to do."""

    check: str
    verdict: str
    found: str
    advice: str = ""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(folder: Path, as_json: bool) -> None:
    """Check disk, fsync, permissions, the settings SQLite obeys, versions, and the state of the data.

    Changes nothing. Exits with 1 if it finds a fault.
    """
    pipeline = open_pipeline(folder)
    findings = []
    for check in _CHECKS:
        for finding in _run(check, pipeline):
            findings.append(finding)
            if not as_json:
                _show(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    if any(finding.verdict == "fault" for finding in findings):
        raise SystemExit(1)


def _run(check: Callable[[Pipeline], Iterator[Finding]], pipeline: Pipeline) -> Iterator[Finding]:
    """Run one check; that it cannot be done is a finding too."""
    name = check.__name__.strip("_")
    try:
        yield from check(pipeline)
    except QuestlogError as error:
        yield Finding(name, "fault", str(error), error.hint)
    except (OSError, sqlite3.Error) as error:
        yield Finding(name, "fault", str(error), "check the folder's permissions and its disk")


def _show(finding: Finding) -> None:
    verdict = f"{finding.verdict:<8}"
    if sys.stdout.isatty() and uses_color():
        verdict = click.style(verdict, fg=_COLORS[finding.verdict])
    click.echo(f"{verdict} {finding.check:<12} {finding.found}")
    if finding.advice:
        click.echo(f"{'':22}{finding.advice}")


def _plan(pipeline: Pipeline) -> Iterator[Finding]:
    plan = pipeline.plan
    yield Finding("plan", "ok", f"{pipeline.project.plan_path}: {len(plan.events)} events, version {plan.version}")


def _versions(_: Pipeline) -> Iterator[Finding]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    yield Finding("versions", "ok", f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {text}")


def _folder(pipeline: Pipeline) -> Iterator[Finding]:
    data = pipeline.project.data
    if not data.exists():
        yield Finding("folder", "ok", f"{data} is not there yet; the first event makes it")
        return
    wrong = [p for p in (data, pipeline.project.log_folder, pipeline.project.warehouse) if p.exists() and not _may(p)]
    for path in wrong:
        yield Finding("folder", "fault", f"{path} cannot be written", f"let user {os.getuid()} write there")
    if not wrong:
        yield Finding("folder", "ok", f"{data} may be read and written")
    if data.stat().st_mode & 0o002:
        yield Finding("folder", "warning", f"{data} may be written by anybody", f"chmod o-w {data}")


def _may(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK)


def _disk(pipeline: Pipeline) -> Iterator[Finding]:
    place = _existing(pipeline.project.data)
    kind = file_system(place)
    if kind in _NETWORK:
        yield Finding(
            "disk", "fault", f"{place} is on {kind}: SQLite's locks and fsync do not hold there", "use a local disk"
        )
    free, watermark = shutil.disk_usage(place).free, pipeline.project.settings.min_free_mb << 20
    found = f"{human_bytes(free)} free on {kind or 'the disk'}, events are refused below {human_bytes(watermark)}"
    verdict = "fault" if free < watermark else "warning" if free < 4 * watermark else "ok"
    yield Finding("disk", verdict, found, "" if verdict == "ok" else "free space, or lower min_free_mb")
    files = os.statvfs(place)
    if files.f_files and files.f_favail < 1000:
        yield Finding("disk", "warning", f"room for {files.f_favail} more files", "delete small files")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def file_system(path: Path) -> str:
    """Return the name of the file system under *path*, "" where the machine does not tell."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        _, point, name, *_ = line.split(" ")
        point = point.encode().decode("unicode_escape")
        if path.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def _fsync(pipeline: Pipeline) -> Iterator[Finding]:
    """Time what every acknowledgement waits for."""
    place = _existing(pipeline.project.data)
    times = []
    with tempfile.NamedTemporaryFile(dir=place, prefix=".questlog-doctor-") as file:
        for _ in range(_SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    middle = sorted(times)[_SYNCS // 2]
    found = f"{middle:.2f} ms (median of {_SYNCS}), {max(times):.2f} ms at most"
    if middle < _FAST_MS:
        yield Finding("fsync", "warning", f"{found}: so fast that nothing may reach a disk", "see the file system")
    elif middle > _SLOW_MS:
        yield Finding(
            "fsync", "warning", f"{found}: every answer waits for it", "a local SSD takes about a millisecond"
        )
    else:
        yield Finding("fsync", "ok", found)


def _log(pipeline: Pipeline) -> Iterator[Finding]:
    """Read what the log's files are set to, and whether the lake was read from this log."""
    from questlog.lake.state import load_checkpoint
    from questlog.log.sqlite import partition

    parts = partition.list_segments(pipeline.project.log_folder)
    files = [segment.path for segments in parts.values() for segment in segments]
    size = sum(path.stat().st_size for path in files)
    wrong = [path for path in files if _journal_mode(path) != "wal"]
    for path in wrong:
        yield Finding("log", "fault", f"{path} is not in WAL mode", "nothing but questlog may write there")
    end = pipeline.log.end()
    gaps = pipeline.log.read(load_checkpoint(pipeline.project.catalog), 1000).gaps
    for gap in gaps:
        yield Finding("log", "warning", f"offsets {gap.first} to {gap.until - 1} of partition {gap.partition} are "
                      f"damaged: {gap.reason}", "landing goes on behind them; check the disk")  # fmt: skip
    if not wrong:
        found = f"{sum(end.values()):,} events accepted in {len(parts)} partitions, {len(files)} files, "
        yield Finding("log", "ok", found + human_bytes(size))


def _journal_mode(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(20)
    return "wal" if header[18:20] == b"\x02\x02" else "another"


def _catalog(pipeline: Pipeline) -> Iterator[Finding]:
    from questlog.lake.guard import check_not_lost, check_root
    from questlog.lake.state import connect

    path = pipeline.project.catalog
    if not path.exists():
        check_not_lost(path)
        yield Finding("catalog", "ok", "nothing is landed yet")
        return
    with closing(connect(path)) as connection:  # reads back WAL and synchronous=FULL
        (result,) = connection.execute("pragma quick_check(1)").fetchone()
        paths = connection.execute("select path from questlog_files").fetchall()
        check_root(connection, pipeline.project.warehouse)
    if result != "ok":
        yield Finding("catalog", "fault", f"{path}: {result}", "restore it and the lake folder from a backup")
    missing = [path for (path,) in paths if not Path(path.removeprefix("file://")).exists()]
    if missing:
        yield Finding(
            "catalog", "fault", f"{len(missing)} data files are gone, the first: {missing[0]}", "restore them"
        )
    if result == "ok" and not missing:
        yield Finding("catalog", "ok", f"whole; {len(paths)} data files are where it says")


def _ledger(pipeline: Pipeline) -> Iterator[Finding]:
    from questlog.lake.ledger import read_ledger

    ledger = read_ledger(pipeline.project.catalog, pipeline.log.end())
    if ledger.imbalance and not ledger.half_landed:
        yield Finding("ledger", "fault", f"{ledger.imbalance} events have no outcome", "please report this as a defect")
    else:
        yield Finding("ledger", "ok", f"balances; {ledger.waiting:,} of {ledger.accepted:,} events wait to be landed")
    damaged = ledger.total("damaged")
    if damaged:
        yield Finding(
            "ledger", "warning", f"{damaged} events were lost with damaged parts of the log",
            "questlog sql \"select detail from quarantine where reason = 'log_damaged'\"",
        )  # fmt: skip


def _lander(pipeline: Pipeline) -> Iterator[Finding]:
    from questlog.land.lease import last_holder

    holder = last_holder(pipeline.project.catalog)
    if holder is not None and holder.alive:
        yield Finding("lander", "ok", f"process {holder.pid} ({holder.command}) lands")
    else:
        yield Finding(
            "lander", "ok", "none runs: events wait in the log, and queries see them", "questlog up lands them"
        )


def _cluster(pipeline: Pipeline) -> Iterator[Finding]:
    """Say what the cluster's servers would need on this machine; only a cluster project needs them."""
    from questlog.stack.fetch import GET_MAVEN, find_maven
    from questlog.stack.place import find_java, find_trino_java

    missing = "fault" if pipeline.project.settings.profile == "cluster" else "ok"
    try:
        yield Finding("java", "ok", f"{find_java()} runs the cluster's servers")
    except NotInstalled as error:
        yield Finding(
            "java", missing, f"{error}" + (" (the cluster profile alone)" if missing == "ok" else ""), error.hint
        )
    try:
        yield Finding("java (trino)", "ok", f"{find_trino_java()} runs Trino")
    except NotInstalled as error:
        yield Finding("java (trino)", "ok", f"{error} (questlog stack up --trino alone)", error.hint)
    try:
        yield Finding("maven", "ok", f"{find_maven()} brings the cluster's servers")
    except NotInstalled:
        yield Finding("maven", "ok", "not installed; questlog stack fetch needs it", GET_MAVEN)


_CHECKS = (_plan, _versions, _folder, _disk, _fsync, _log, _catalog, _ledger, _lander, _cluster)
