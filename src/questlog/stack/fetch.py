"""Download the servers' jars from Maven Central with the machine's own Maven, and verify their checksums.

Each part is one pinned pom in `poms/` and one list of checksums in `sums/`. A part in the user's cache folder is always
complete: it is assembled in a temporary folder and renamed in one step. Files that Maven downloaded before an
interruption stay in Maven's own repository, so the next fetch continues from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from questlog.durable import FileLock
from questlog.errors import NotInstalled, QuestlogError

PARTS = ("kafka", "hdfs", "metastore", "spark", "presto")
OPTIONAL = ("trino", "s3")
GET_MAVEN = "install Maven, for example: apt install maven (or brew install maven)"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_DOWNLOADED = re.compile(r"Downloaded from \S+: \S+/(\S+\.(?:jar|zip|gz)) \(([\d.]+) (B|kB|MB|GB)")
HOME: Traversable = resources.files("questlog.stack")
"""Holds `poms` and `sums`. The tests have more of them in a folder of their own."""
Progress = Callable[[str], None]
"""Called with a line that describes the progress."""


def cache_folder() -> Path:
    """Return the folder of fetched parts, which all projects of this user share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "questlog" / "stack"


def part_folder(part: str, home: Traversable = HOME) -> Path:
    """Return the folder of *part*; its name changes with its pom and sums, so an upgrade never mixes versions."""
    text = _text(home, "poms", f"{part}.xml") + _text(home, "sums", f"{part}.sha256")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return cache_folder() / f"{part}-{digest[:12]}"


def jars(part: str) -> list[str]:
    """Return the paths of the jars of *part*, or raise `NotInstalled` if it was never fetched."""
    return sorted(str(path) for path in fetched(part).glob("*.jar"))


def spark_jars(metastore: str, warehouse: str) -> list[str]:
    """Return the jars that Spark needs for tables in *warehouse*.

    The jars of `s3` are needed for S3 only. A REST catalog may give a name to a warehouse on S3, so for a name they are
    included if they have been fetched.
    """
    is_named = metastore.startswith("http") and "://" not in warehouse and part_folder("s3").exists()
    return jars("spark") + (jars("s3") if is_named or warehouse.startswith("s3") else [])


def fetched(part: str) -> Path:
    """Return the folder of a part that has been fetched; raise `NotInstalled` if it has not."""
    folder = part_folder(part)
    if not folder.exists():
        raise NotInstalled(f"{part} has not been downloaded yet", hint=f"questlog stack fetch {part}")
    return folder


def fetch(part: str, report: Progress = lambda line: None, home: Traversable = HOME) -> Path:
    """Download *part* unless it is in the cache. Of two concurrent calls, the second waits for the first."""
    folder = part_folder(part, home)
    if folder.exists():
        return folder
    with _alone(part):
        if folder.exists():
            return folder
        draft = folder.with_name(f"{part}.partial")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _run_maven(part, draft, report, home)
        report("verifying checksums")
        _check_sums(part, draft, home)
        report("unpacking")
        _FINISH.get(part, _nothing)(draft)
        os.replace(draft, folder)
    return folder


@contextlib.contextmanager
def _alone(part: str) -> Iterator[None]:
    """Wait until no other process fetches *part*; the lock is released with the process, however it ends."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_folder() / f"{part}.lock")
    lock.take(wait_seconds=None)
    try:
        yield
    finally:
        lock.release()


def find_maven() -> str:
    """Return the path of Maven."""
    program = shutil.which("mvn")
    if program is None:
        raise NotInstalled("Maven downloads the servers, but it is not installed", hint=GET_MAVEN)
    return program


def _run_maven(part: str, target: Path, report: Progress, home: Traversable) -> None:
    """Copy the artifacts of the pom and their dependencies into *target*."""
    with resources.as_file(home / "poms" / f"{part}.xml") as pom:
        command = [
            find_maven(), "-B", "-f", str(pom), _COPY,
            "-DincludeScope=runtime", f"-DoutputDirectory={target}", "-Dmdep.stripVersion=false",
        ]  # fmt: skip
        last: deque[str] = deque(maxlen=12)
        files, size = 0, 0.0
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as maven:
            assert maven.stdout is not None
            try:
                for line in maven.stdout:
                    last.append(line.rstrip())
                    if match := _DOWNLOADED.search(line):
                        files += 1
                        size += float(match.group(2)) * {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}[match.group(3)]
                        report(f"{size:,.0f} MB in {files} files, {match.group(1)}")
            except BaseException:
                maven.terminate()
                raise
    if maven.returncode:
        faults = [line for line in last if "ERROR" in line] or list(last)
        raise QuestlogError(
            f"Maven could not download {part}:\n  " + "\n  ".join(faults[:3]),
            hint="check the network connection and run questlog stack fetch again; downloaded files are kept",
        )


def _check_sums(part: str, folder: Path, home: Traversable) -> None:
    """Raise `QuestlogError` unless the files and their checksums are exactly the recorded ones."""
    recorded = _recorded(part, home)
    actual = sums(folder)
    wrong = sorted(name for name in recorded.keys() | actual.keys() if recorded.get(name) != actual.get(name))
    if wrong:
        raise QuestlogError(
            f"{part}: {len(wrong)} files do not match the recorded checksums, the first: {wrong[0]}",
            hint=f"delete {wrong[0]} from Maven's repository (~/.m2/repository) and fetch again",
        )


def sums(folder: Path) -> Mapping[str, str]:
    """Return name -> SHA-256 of the files in *folder*."""
    digests = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _recorded(part: str, home: Traversable) -> Mapping[str, str]:
    lines = _text(home, "sums", f"{part}.sha256").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _text(home: Traversable, folder: str, name: str) -> str:
    return (home / folder / name).read_text("utf-8")


def _nothing(folder: Path) -> None:
    """Do nothing: the jars need no unpacking."""


def _finish_metastore(folder: Path) -> None:
    """Unpack the server's own jars and its Derby schema, and change the type of one column.

    With a CLOB, Presto's `show tables` makes a comparison that Derby refuses, and retries for 32 s.
    """
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        wanted = [m for m in tar.getmembers() if re.search(r"/lib/[^/]+\.jar$|/metastore/upgrade/derby/", m.name)]
        tar.extractall(folder, wanted, filter="data")
    archive.unlink()
    (root,) = folder.glob("apache-hive-metastore-*")
    root.rename(folder / "hive")
    (schema,) = folder.glob("hive/scripts/metastore/upgrade/derby/hive-schema-3.1.0.derby.sql")
    text, changed = re.subn(
        r'(CREATE TABLE "APP"\."(?:TABLE|SERDE|SD)_PARAMS".*?"PARAM_VALUE") CLOB',
        r"\1 VARCHAR(32672)",
        schema.read_text("utf-8"),
    )
    if not changed:
        raise QuestlogError("the metastore's schema differs from the tested one", hint="please report this")
    schema.write_text(text, "utf-8")


def _finish_presto(folder: Path) -> None:
    """Move the jars to `lib`, unpack each connector into `plugin`, and replace its ASM by one for Java 17."""
    (cli,) = folder.glob("presto-cli-*-executable.jar")
    cli.rename(folder / "cli")
    lib, plugins = folder / "lib", folder / "plugin"
    lib.mkdir()
    for jar in folder.glob("*.jar"):
        jar.rename(lib / jar.name)
    for archive in folder.glob("*.zip"):
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(plugins)
        archive.unlink()
    for old in plugins.glob("*/asm*-9.0.jar"):
        name = old.name.replace("-9.0.jar", "-9.8.jar")
        old.unlink()
        os.link(lib / name, old.with_name(name))
    os.rename(folder / "cli", folder / "presto-cli.jar")


def _finish_trino(folder: Path) -> None:
    """Unpack the server, then delete the connectors we do not use: its jars are links to each other."""
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    (root,) = folder.glob("trino-server-*")
    root.rename(folder / "server")
    for plugin in (folder / "server" / "plugin").iterdir():
        if plugin.name not in ("iceberg", "hive", "password-authenticators"):
            shutil.rmtree(plugin)
    (cli,) = folder.glob("trino-cli-*-executable.jar")
    cli.rename(folder / "trino-cli.jar")


_FINISH: Mapping[str, Callable[[Path], None]] = {
    "metastore": _finish_metastore,
    "presto": _finish_presto,
    "trino": _finish_trino,
}


def record(parts: Iterable[str], target: Path) -> None:
    """Record the checksums of Maven's current downloads, after a pom has changed and the change was reviewed.

    *target* is the folder `sums`, whose sibling is `poms`.
    """
    for part in parts:
        draft = cache_folder() / f"{part}.recording"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _run_maven(part, draft, lambda line: None, target.parent)
        lines = [f"{digest}  {name}\n" for name, digest in sums(draft).items()]
        (target / f"{part}.sha256").write_text("".join(lines), "utf-8")
        shutil.rmtree(draft)


if __name__ == "__main__":
    record(sys.argv[2:], Path(sys.argv[1]))
