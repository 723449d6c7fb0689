"""What `questlog doctor` checks: does this machine, and this project's data, meet questlog's needs?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from questlog.durable import user_name
from questlog.errors import NotInstalled, QuestlogError
from questlog.log import LogReader
from questlog.plan import Plan
from questlog.report import human_bytes
from questlog.settings import Project

_SYNCS = 20
_FAST_MS, _SLOW_MS = 0.01, 50.0
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs", "glusterfs", "ceph"}
_PACKAGES = ("duckdb", "msgspec", "pyarrow", "pyiceberg", "pyiceberg-core", "flask")
Verdict = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check, and what to do about it."""

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class _Examined:
    """What the checks read; plan and log are opened by the check that needs them, so that its failure is a finding."""

    project: Project
    plan: Callable[[], Plan]
    log: Callable[[], LogReader]
    needs_java: bool


def examine(
    project: Project, plan: Callable[[], Plan], log: Callable[[], LogReader], *, needs_java: bool
) -> Iterator[Finding]:
    """Run every check and yield its findings. Changes nothing."""
    examined = _Examined(project, plan, log, needs_java)
    for check in _CHECKS:
        yield from _run(check, examined)


def _run(check: Callable[[_Examined], Iterator[Finding]], examined: _Examined) -> Iterator[Finding]:
    """Run one check; a check that fails to run is a finding too."""
    name = check.__name__.strip("_")
    try:
        yield from check(examined)
    except QuestlogError as error:
        yield Finding(name, "fault", str(error), error.hint)
    except (OSError, sqlite3.Error) as error:
        yield Finding(name, "fault", str(error), "check the folder's permissions and its disk")


def _plan(examined: _Examined) -> Iterator[Finding]:
    plan = examined.plan()
    yield Finding("plan", "ok", f"{examined.project.plan_path}: {len(plan.events)} events, version {plan.version}")


def _versions(_: _Examined) -> Iterator[Finding]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("versions", "ok", f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {text}")


def _folder(examined: _Examined) -> Iterator[Finding]:
    data = examined.project.data
    if not data.exists():
        yield Finding("folder", "ok", f"{data} does not exist yet; the first event creates it")
        return
    wrong = [
        p for p in (data, examined.project.log_folder, examined.project.warehouse) if p.exists() and not _is_usable(p)
    ]
    for path in wrong:
        yield Finding("folder", "fault", f"{path} is not writable", f"give user {os.getuid()} write access")
    if not wrong:
        yield Finding("folder", "ok", f"{data} is readable and writable")
    owner = data.stat()
    locked_out = sorted(path for path in data.rglob("*") if _locks_out(owner, path))
    if locked_out:
        path = locked_out[0]
        more = f" and {len(locked_out) - 1} more files" if len(locked_out) > 1 else ""
        yield Finding(
            "folder", "fault",
            f"{path} (of user {user_name(path.lstat().st_uid)}){more} cannot be written by user"
            f" {user_name(owner.st_uid)}, to whom {data} belongs",
            f"sudo chown -R {owner.st_uid}:{owner.st_gid} {shlex.quote(str(data))}",
        )  # fmt: skip
    if data.stat().st_mode & 0o002:
        yield Finding("folder", "warning", f"{data} is writable by every user", f"chmod o-w {data}")


def _locks_out(owner: os.stat_result, path: Path) -> bool:
    """Return whether the owner of the data folder may not write *path*, as after `sudo questlog` up to 0.1.0."""
    try:
        file = path.lstat()
    except FileNotFoundError:
        return False
    writable = 0o002 | (0o020 if file.st_gid == owner.st_gid else 0)
    return owner.st_uid not in (0, file.st_uid) and not stat.S_ISLNK(file.st_mode) and not file.st_mode & writable


def _is_usable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.W_OK | os.X_OK)


def _disk(examined: _Examined) -> Iterator[Finding]:
    folder = _existing(examined.project.data)
    kind = file_system(folder)
    if kind in _NETWORK:
        yield Finding(
            "disk", "fault", f"{folder} is on {kind}: SQLite's locks and fsync are unreliable there", "use a local disk"
        )
    free, watermark = shutil.disk_usage(folder).free, examined.project.settings.min_free_mb << 20
    text = f"{human_bytes(free)} free on {kind or 'the disk'}, events are refused below {human_bytes(watermark)}"
    verdict: Verdict = "fault" if free < watermark else "warning" if free < 4 * watermark else "ok"
    yield Finding("disk", verdict, text, "" if verdict == "ok" else "free space, or lower min_free_mb")
    inodes = os.statvfs(folder)
    if inodes.f_files and inodes.f_favail < 1000:
        yield Finding("disk", "warning", f"room for {inodes.f_favail} more files", "delete small files")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def file_system(path: Path) -> str:
    """Return the name of the file system under *path*, "" if the machine does not report it."""
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


def _fsync(examined: _Examined) -> Iterator[Finding]:
    """Measure the fsync that every acknowledgement waits for."""
    times = []
    with tempfile.NamedTemporaryFile(dir=_existing(examined.project.data), prefix=".questlog-doctor-") as file:
        for _ in range(_SYNCS):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    median = sorted(times)[_SYNCS // 2]
    text = f"{median:.2f} ms (median of {_SYNCS}), {max(times):.2f} ms at most"
    if median < _FAST_MS:
        yield Finding("fsync", "warning", f"{text}: too fast to be reaching a disk", "check the file system")
    elif median > _SLOW_MS:
        yield Finding(
            "fsync", "warning", f"{text}: every response waits for it", "a local SSD takes about a millisecond"
        )
    else:
        yield Finding("fsync", "ok", text)


def _log(examined: _Examined) -> Iterator[Finding]:
    """Check the journal mode of the log's files, and that the lake was read from this log."""
    from questlog.lake.state import load_checkpoint
    from questlog.log.sqlite import partition

    parts = partition.list_segments(examined.project.log_folder)
    files = [segment.path for segments in parts.values() for segment in segments]
    size = sum(path.stat().st_size for path in files)
    wrong = [path for path in files if _journal_mode(path) != "wal"]
    for path in wrong:
        yield Finding("log", "fault", f"{path} is not in WAL mode", "only questlog may write there")
    end = examined.log().end()
    gaps = examined.log().read(load_checkpoint(examined.project.catalog), 1000).gaps
    for gap in gaps:
        yield Finding("log", "warning", f"offsets {gap.first} to {gap.until - 1} of partition {gap.partition} are "
                      f"damaged: {gap.reason}", "landing continues after them; check the disk")  # fmt: skip
    if not wrong:
        text = f"{sum(end.values()):,} events accepted in {len(parts)} partitions, {len(files)} files, "
        yield Finding("log", "ok", text + human_bytes(size))


def _journal_mode(path: Path) -> str:
    with path.open("rb") as file:
        header = file.read(20)
    return "wal" if header[18:20] == b"\x02\x02" else "another"


def _catalog(examined: _Examined) -> Iterator[Finding]:
    from questlog.lake.guard import check_not_lost, check_root
    from questlog.lake.state import connect

    path = examined.project.catalog
    if not path.exists():
        check_not_lost(path)
        yield Finding("catalog", "ok", "nothing has landed yet")
        return
    with closing(connect(path)) as connection:  # reads back WAL and synchronous=FULL
        (result,) = connection.execute("pragma quick_check(1)").fetchone()
        paths = connection.execute("select path from questlog_files").fetchall()
        check_root(connection, examined.project.warehouse)
    if result != "ok":
        yield Finding("catalog", "fault", f"{path}: {result}", "restore it and the lake folder from a backup")
    missing = [path for (path,) in paths if not Path(path.removeprefix("file://")).exists()]
    if missing:
        yield Finding(
            "catalog", "fault", f"{len(missing)} data files are missing, the first: {missing[0]}", "restore them"
        )
    if result == "ok" and not missing:
        yield Finding("catalog", "ok", f"intact; all {len(paths)} data files it lists exist")


def _ledger(examined: _Examined) -> Iterator[Finding]:
    from questlog.lake.ledger import read_ledger

    ledger = read_ledger(examined.project.catalog, examined.log().end())
    if ledger.imbalance and not ledger.half_landed:
        yield Finding("ledger", "fault", f"{ledger.imbalance} events have no outcome", "please report this as a defect")
    else:
        yield Finding(
            "ledger", "ok", f"balances; {ledger.waiting:,} of {ledger.accepted:,} events are waiting to be landed"
        )
    damaged = ledger.total("damaged")
    if damaged:
        yield Finding(
            "ledger", "warning", f"{damaged} events were lost with damaged parts of the log",
            "questlog sql \"select detail from quarantine where reason = 'log_damaged'\"",
        )  # fmt: skip


def _lander(examined: _Examined) -> Iterator[Finding]:
    from questlog.land.lease import last_holder

    holder = last_holder(examined.project.catalog)
    if holder is not None and holder.alive:
        yield Finding("lander", "ok", f"process {holder.pid} ({holder.command}) is landing events")
    else:
        yield Finding(
            "lander", "ok", "none is running: events wait in the log, where queries read them", "questlog up lands them"
        )


def _cluster(examined: _Examined) -> Iterator[Finding]:
    """Check what the cluster's servers need on this machine; an embedded project does not need it."""
    from questlog.stack.fetch import GET_MAVEN, find_maven
    from questlog.stack.layout import find_java, find_trino_java

    missing: Verdict = "fault" if examined.needs_java else "ok"
    try:
        yield Finding("java", "ok", f"{find_java()} runs the cluster's servers")
    except NotInstalled as error:
        yield Finding(
            "java",
            missing,
            f"{error}" + (" (only the cluster profile needs it)" if missing == "ok" else ""),
            error.hint,
        )
    try:
        yield Finding("java (trino)", "ok", f"{find_trino_java()} runs Trino")
    except NotInstalled as error:
        yield Finding("java (trino)", "ok", f"{error} (only questlog stack up --trino needs it)", error.hint)
    try:
        yield Finding("maven", "ok", f"{find_maven()} downloads the cluster's servers")
    except NotInstalled:
        yield Finding("maven", "ok", "not installed; questlog stack fetch needs it", GET_MAVEN)


_CHECKS = (_plan, _versions, _folder, _disk, _fsync, _log, _catalog, _ledger, _lander, _cluster)
