"""Processes, identified by id and start time, so that another process with the same id is never signalled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from questlog.durable import write_file


@dataclass(frozen=True, slots=True)
class Identity:
    """One process. Its id alone could belong to another process after a reboot."""

    pid: int
    born: str

    def alive(self) -> bool:
        """Return whether exactly this process is running."""
        return bool(self.born) and born(self.pid) == self.born


def born(pid: int) -> str:
    """Return a text that distinguishes this process from every other that ever had its id; "" if no process has the id.

    It names the boot and the clock tick of the start: a time of day would change with the machine's clock.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "" if Path("/proc/self/stat").exists() else _born_elsewhere(pid)
    return "" if status[0] in "ZX" else f"{boot}/{status[19]}"


def _born_elsewhere(pid: int) -> str:
    import psutil

    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return ""


def remember(file: Path, pid: int) -> Identity:
    """Write the identity of *pid* to *file* atomically, and return it."""
    identity = Identity(pid, born(pid))
    write_file(file, json.dumps(asdict(identity)))
    return identity


def recall(file: Path) -> Identity | None:
    """Return the identity in *file*, if that process is still running."""
    try:
        identity = Identity(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return identity if identity.alive() else None


def end(identity: Identity, seconds: float) -> bool:
    """Ask a process to stop, and kill it after *seconds*; return whether it stopped by itself."""
    send_signal(identity, signal.SIGTERM)
    send_signal(identity, signal.SIGCONT)  # a stopped process does not act on SIGTERM
    if _gone(identity, seconds):
        return True
    send_signal(identity, signal.SIGKILL)
    _gone(identity, 10)
    return False


def send_signal(identity: Identity, number: signal.Signals) -> None:
    """Send a signal to exactly this process, if it is still running."""
    if identity.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(identity.pid, number)


def _gone(identity: Identity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while identity.alive():
        with contextlib.suppress(ChildProcessError):
            os.waitpid(identity.pid, os.WNOHANG)  # reap it if it is our child: until then it still exists
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_info().rss) / (1 << 20)
    except psutil.Error:
        return 0.0


def holder_of(port: int) -> str:
    """Return a description of the process that listens on *port*; "" if there is none or the machine hides it."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return _describe(connection.pid)
    return ""


def _describe(pid: int | None) -> str:
    import psutil

    if pid is None:
        return "another user's process"
    try:
        return f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:60]})"
    except psutil.Error:
        return f"process {pid}"
