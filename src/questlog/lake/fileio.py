"""Files that are on the disk when they are closed: PyIceberg's own are lost in half of all power cuts."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO


class _SyncedStream(io.FileIO):
    """A new file; closing it makes its bytes, its name and its new folders survive a power cut."""

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        self._folders = _make_folders(path.parent)
        super().__init__(path, "wb" if overwrite else "xb")

    def close(self) -> None:
        if not self.closed:
            os.fsync(self.fileno())
            super().close()
            for folder in self._folders:
                sync_folder(folder)


def _make_folders(folder: Path) -> list[Path]:
    """Create *folder*; return it and each folder whose entry list changed."""
    changed = [folder]
    while not folder.exists():
        folder = folder.parent
        changed.append(folder)
    changed[0].mkdir(parents=True, exist_ok=True)
    return changed


def sync_folder(folder: Path) -> None:
    """fsync a folder: a new or renamed file's name alone can vanish on power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _SyncedFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> Any:
        raw = _SyncedStream(Path(self._path), overwrite=overwrite)
        return io.BufferedWriter(raw, 1 << 20)


class SyncedFileIO(PyArrowFileIO):
    """PyIceberg's file access for local paths, with every written file fsynced before the catalog commit."""

    def new_output(self, location: str) -> PyArrowFile:
        scheme, netloc, path = self.parse_location(location, self.properties)
        return _SyncedFile(fs=self.fs_by_scheme(scheme, netloc), location=location, path=path)
