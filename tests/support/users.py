"""Runs a part of a test as another user of the machine: only root can, so such tests are skipped for other users."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GAME = 65534
"""The user and group that the game runs as."""

as_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="only root can run a part of a test as another user"
)


def as_game(work: Callable[[], str]) -> str:
    """Return what *work* returns in a child process of the game's user; its exception fails the test."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        code = 1
        try:
            os.setgroups([])
            os.setgid(GAME)
            os.setuid(GAME)
            answer, code = work(), 0
        except BaseException:
            answer = traceback.format_exc()
        os.write(writing, answer.encode()[:60_000])
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as answered:
        answer = answered.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, answer
    return answer


@contextmanager
def folder_of_game() -> Iterator[Path]:
    """Yield a new folder that belongs to the game's user; pytest's own folders can only be entered by root."""
    folder = Path(tempfile.mkdtemp(prefix="questlog-game-"))
    try:
        os.chown(folder, GAME, GAME)
        yield folder
    finally:
        shutil.rmtree(folder)


def give(folder: Path, pattern: str, user: int, mode: int | None = None) -> list[Path]:
    """Give every file that matches to *user*; return the files."""
    files = sorted(folder.rglob(pattern))
    for file in files:
        os.chown(file, user, user)
        if mode is not None:
            file.chmod(mode)
    return files
