"""A disk whose power can be cut: an ext4 image on a loop device, and the file system's own shutdown call.

After the cut nothing that was not flushed is on the disk, exactly as when the plug is pulled; mounting
again replays the journal, as starting the machine does. Needs root and a free loop device.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from pathlib import Path

from support.waiting import until

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, the same number as XFS_IOC_GOINGDOWN
DROP_JOURNAL, FLUSH_JOURNAL = 2, 1
"""Whether the cut drops or writes pending journal entries. Both drop data that was never fsynced."""


class Disk:
    """A separate small file system, mounted at `path` while used as a context manager."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self.path.mkdir(parents=True)
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0", str(self._image))

    def __enter__(self) -> Disk:
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        if os.path.ismount(self.path):
            self.unmount()

    def mount(self, options: str = "loop") -> None:
        """Mount; after a power cut this replays the journal. The loop device goes when it is unmounted."""
        _run("mount", "-t", "ext4", "-o", options, str(self._image), str(self.path))

    def remount(self, mode: str) -> None:
        """Make the disk read-only (`ro`) or writable (`rw`) while processes use it."""
        _run("mount", "-o", f"remount,{mode}", str(self.path))

    def unmount(self) -> None:
        """Unmount once the processes that used the disk are gone."""
        free = lambda: subprocess.run(["umount", str(self.path)], capture_output=True).returncode == 0  # noqa: E731
        try:
            until(free, f"no process uses {self.path}", 30)
        except AssertionError:
            _run("umount", "--lazy", str(self.path))
            raise

    def cut_power(self, journal: int = DROP_JOURNAL) -> None:
        """Lose everything that is not on the disk yet; later operations fail."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", journal))
        finally:
            os.close(descriptor)


def fill(folder: Path, leave: int = 0) -> Path:
    """Fill the disk with another file, except for *leave* bytes, and return that file.

    A file system takes more than it needs for what it has not written yet, and gives the rest back: hence the sync.
    """
    ballast, before = folder / "ballast", -1
    with ballast.open("wb", buffering=0) as file:
        while (free := _free(folder)) > leave and free != before:
            before = free
            with contextlib.suppress(OSError):
                file.write(bytes(max(1024, min(1 << 20, free - leave))))
            os.sync()
    return ballast


def _free(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def why_not(folder: Path) -> str:
    """Return why no disk can be created here, or an empty text after a power cut has been tried."""
    if os.geteuid() != 0:
        return "power cuts need root: they mount a loop device"
    try:
        with Disk(folder, 8) as disk:
            disk.cut_power()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        return f"power cuts need a loop device and ext4: {reason.strip()}"
    return ""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
