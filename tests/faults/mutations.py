"""What a child process of the fault tests can be told to do to itself before its program starts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_STAGES = ("questlog.log", "questlog.land", "questlog.lake")


def signal_at_step(how: list[int]) -> None:
    """Send this process the signal `how[1]` just before log, landing or lake make their `how[0]`-th call."""
    left, number = how

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event.endswith("call") and str(frame.f_globals.get("__name__")).startswith(_STAGES):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

    sys.setprofile(count)
    threading.setprofile(count)


MUTATIONS: dict[str, Callable[[Any], None]] = {"signal_at_step": signal_at_step}
