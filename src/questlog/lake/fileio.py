"""Files that are on the disk before the catalog names them. PyIceberg's own were lost in half of all power cuts."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyiceberg.io import InputFile, OutputFile
from pyiceberg.io.pyarrow import PyArrowFileIO

from questlog.durable import DurableFile, create_folders, sync_folder
from questlog.lake.guard import check_inside


class NewFiles:
    """The files of one commit: after `sync` all of them survive a power cut, after `discard` none is left."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self._roots = roots
        self._paths: list[Path] = []
        self._folders: dict[Path, None] = {}

    def open(self, path: Path) -> io.BufferedWriter:
        """Open a new file below one of the roots for writing; closing it fsyncs its bytes."""
        check_inside(path, self._roots)
        for folder in create_folders(path.parent):
            self._folders[folder.parent] = None
        self._folders[path.parent] = None
        self._paths.append(path)
        return io.BufferedWriter(DurableFile(path, "xb"), 1 << 20)

    def output(self, path: Path) -> _NewFile:
        """Return a new file with PyIceberg's interface."""
        return _NewFile(path, self)

    def sync(self) -> None:
        """Make the names of the files survive a power cut, too."""
        for folder in self._folders:
            sync_folder(folder)

    def discard(self) -> None:
        """Delete the files: the commit failed, and a full disk needs the space."""
        for path in self._paths:
            with suppress(OSError):
                path.unlink()


class _NewFile(OutputFile):
    def __init__(self, path: Path, files: NewFiles) -> None:
        super().__init__(str(path))
        self._path, self._files = path, files

    def create(self, overwrite: bool = False) -> Any:
        return self._files.open(self._path)

    def exists(self) -> bool:
        return self._path.exists()

    def to_input_file(self) -> InputFile:
        return PyArrowFileIO().new_input(self.location)

    def __len__(self) -> int:
        return self._path.stat().st_size
