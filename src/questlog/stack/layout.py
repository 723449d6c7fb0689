"""The layout of a stack: its folder, ports and Java, and the configuration files written from them."""

from __future__ import annotations

import getpass
import json
import os
import re
import shutil
import socket
import string
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from questlog.durable import write_file
from questlog.errors import NotInstalled, QuestlogError

USUAL_PORTS = {
    "kafka": 9092, "kafka_controller": 9093,
    "namenode": 8020, "namenode_http": 9870, "datanode": 9866, "datanode_http": 9864, "datanode_ipc": 9867,
    "metastore": 9083, "presto": 8080, "trino": 8090,
    "spark": 7077, "spark_ui": 8081, "spark_worker": 7078, "spark_worker_ui": 8082,
}  # fmt: skip
JAVA_VERSIONS = range(17, 24)
"""Kafka and Spark need 17; Hadoop needs the security manager, which 24 removed."""
GET_JAVA = "install Java 17, for example: apt install openjdk-17-jre-headless (or brew install openjdk@17)"
TRINO_VERSIONS = range(24, 31)
GET_TRINO_JAVA = "install Java 25 too, for example: apt install temurin-25-jdk (or brew install openjdk)"
LOCK_SECONDS = 45
"""When the metastore releases the table lock of a dead writer; a live commit renews its lock."""


@dataclass(frozen=True, slots=True)
class StackLayout:
    """One stack's folder, ports and Java. The servers write only below *folder*."""

    folder: Path
    ports: Mapping[str, int]
    java: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def etc(self) -> Path:
        return self.folder / "etc"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def hdfs(self) -> str:
        return f"hdfs://127.0.0.1:{self.ports['namenode']}"

    @property
    def warehouse(self) -> str:
        return f"{self.hdfs}/warehouse"

    def write_configuration(self) -> None:
        """Write every server's configuration, which depends on the ports; edits are overwritten."""
        words = {name: str(port) for name, port in self.ports.items()}
        words |= {"data": str(self.data), "etc": str(self.etc), "warehouse": self.warehouse, "user": getpass.getuser()}
        words["lock_seconds"] = str(LOCK_SECONDS)
        for folder in (self.data, self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        for path, text in _templates():
            target = self.etc / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(string.Template(text).substitute(words), "utf-8")


def _templates() -> Iterator[tuple[str, str]]:
    """Yield path and text of each configuration file."""
    root = resources.files("questlog.stack") / "etc"
    folders = [("", root)]
    for prefix, folder in folders:
        for entry in folder.iterdir():
            if entry.is_dir():
                folders.append((f"{prefix}{entry.name}/", entry))
            else:
                yield prefix + entry.name, entry.read_text("utf-8")


def open_layout(folder: Path, ports: str = "") -> StackLayout:
    """Return the layout of the stack in *folder*; *ports* changes the default ports.

    `kafka=19092 presto=18080` changes two; `free` chooses free ports at the first start. HDFS paths contain the
    NameNode's port, so a stack with data keeps that port.
    """
    folder = folder.resolve()
    return StackLayout(folder, settle_ports(folder, ports), find_java())


def settle_ports(folder: Path, ports: str) -> Mapping[str, int]:
    """Return the port of each server, and store them for the next start."""
    file = folder / "ports.json"
    kept: dict[str, int] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    wanted = _parsed(ports)
    chosen = _free_ports() | kept if "free" in wanted else USUAL_PORTS | wanted
    has_data = (folder / "data" / "namenode").exists()
    if has_data and kept and kept["namenode"] != chosen["namenode"]:
        raise QuestlogError(
            f"the tables in {folder} were written under hdfs://127.0.0.1:{kept['namenode']},"
            f" but the settings change the NameNode's port to {chosen['namenode']}",
            hint=f'stack_ports = "namenode={kept["namenode"]}", or questlog stack reset, which deletes the tables',
        )
    if chosen != kept:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(chosen, indent=1))
    return chosen


def current_ports(folder: Path) -> Mapping[str, int]:
    """Return the ports of the stack in *folder*, or the default ports if it has never run."""
    file = folder / "ports.json"
    return json.loads(file.read_text("utf-8")) if file.exists() else USUAL_PORTS


def _parsed(ports: str) -> dict[str, int]:
    if ports.strip() == "free":
        return {"free": 0}
    wanted = {}
    for word in re.split(r"[,\s]+", ports.strip()):
        name, _, number = word.partition("=")
        if not word:
            continue
        if name not in USUAL_PORTS or not number.isdecimal() or not 0 < int(number) < 65536:
            raise QuestlogError(
                f"stack_ports: {word!r} is not a valid port",
                hint=f"NAME=NUMBER, or free; names: {', '.join(USUAL_PORTS)}",
            )
        wanted[name] = int(number)
    return wanted


def _free_ports() -> dict[str, int]:
    """Return free ports, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in USUAL_PORTS]
    try:
        return {name: each.getsockname()[1] for name, each in zip(USUAL_PORTS, sockets, strict=True)}
    finally:
        for each in sockets:
            each.close()


def find_java() -> Path:
    """Return a Java for every server but Trino."""
    return _find_java("the servers need", JAVA_VERSIONS, GET_JAVA)


def find_trino_java() -> Path:
    """Return a Java for Trino, which needs a newer one than the other servers support."""
    return _find_java("Trino needs", TRINO_VERSIONS, GET_TRINO_JAVA)


def _find_java(who: str, versions: range, hint: str) -> Path:
    """Return the Java of JAVA_HOME, of the path, or from a usual location."""
    others = []
    for path in _javas():
        version = java_version(path)
        if version in versions:
            return path
        others.append(f"{path} is {version or 'not Java'}")
    raise NotInstalled(f"{who} Java {versions[0]} to {versions[-1]}: {'; '.join(others) or 'none found'}", hint=hint)


def _javas() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if java := shutil.which("java"):
        yield Path(java)
    for root in ("/usr/lib/jvm", "/opt/homebrew/opt", "/usr/local/opt", "/opt/java"):
        yield from sorted(Path(root).glob("*/bin/java"))


def java_version(java: Path) -> int:
    """Return the major version, or 0 if *java* is not Java."""
    try:
        ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', ran.stderr)
    return int(match.group(1)) if match else 0
