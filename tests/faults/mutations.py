"""What a child process of the fault tests can be told to do to itself before its program starts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_STAGES = ("questlog.log", "questlog.land", "questlog.lake")


def die_at_step(step: int) -> None:
    """SIGKILL this process just before log, landing or lake make their *step*-th call of anything."""
    left = step

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event.endswith("call") and str(frame.f_globals.get("__name__")).startswith(_STAGES):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), 9)

    sys.setprofile(count)
    threading.setprofile(count)


MUTATIONS: dict[str, Callable[[Any], None]] = {"die_at_step": die_at_step}
