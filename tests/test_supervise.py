"""One restart policy: children that end are restarted with growing pauses, and stop before what they need."""

import signal
import time
from collections.abc import Iterator, Sequence

import pytest

from questlog import supervise
from questlog.supervise import Child, Supervisor


class FakeChild(Child):
    """Ends after each start with the next of *codes*, or runs until it is stopped. Records its calls in *events*."""

    def __init__(
        self, name: str, events: list[str], codes: Sequence[int] = (), *, ready: bool = True, needs: Sequence[str] = ()
    ) -> None:
        self.name, self.needs, self._events, self._ready = name, needs, events, ready
        self._codes, self._code = list(codes), None

    def start(self) -> None:
        self._events.append(f"start {self.name}")
        self._code = self._codes.pop(0) if self._codes else None

    def exit_code(self) -> int | None:
        return self._code

    def is_ready(self) -> bool:
        return self._ready

    def stop(self) -> None:
        self._events.append(f"stop {self.name}")
        self._code = 0

    def kill(self) -> None:
        self._events.append(f"kill {self.name}")
        self._code = -9

    def restarting(self, code: int, seconds: float) -> None:
        self._events.append(f"restart {self.name} in {seconds:g}")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give this process its signal handlers back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervise, "LONGEST_PAUSE", 0.03)
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0.02)


def test_each_restart_waits_twice_as_long_up_to_a_limit() -> None:
    events: list[str] = []
    supervisor = Supervisor([FakeChild("a", events, [1, -9, 0, 1])], lambda: events.count("start a") < 5)
    assert supervisor.run() == 0
    pauses = [event for event in events if event.startswith("restart")]
    assert pauses == [f"restart a in {seconds}" for seconds in (0.01, 0.02, 0.03, 0.03)]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_child_that_fails_before_it_was_ever_ready_ends_the_supervisor(attempts: int) -> None:
    events: list[str] = []
    child = FakeChild("a", events, [7] * 10, ready=False)
    child.attempts = attempts
    assert Supervisor([child, FakeChild("b", events)]).run() == 7
    assert (events.count("start a"), events.count("stop b")) == (attempts, 1)


def test_a_child_that_was_killed_before_it_was_ready_is_restarted() -> None:
    events: list[str] = []
    child = FakeChild("a", events, [-9, 5, 5], ready=False)
    Supervisor([child], lambda: events.count("start a") < 4).run()
    assert events.count("start a") == 4


def test_a_child_stops_before_those_that_it_needs() -> None:
    events: list[str] = []
    children = [FakeChild("a", events), FakeChild("b", events, needs=["a"]), FakeChild("c", events, needs=["a", "b"])]
    Supervisor(children, lambda: False).run()
    assert [event for event in events if event.startswith("stop")] == ["stop c", "stop b", "stop a"]


def test_a_child_that_does_not_stop_is_killed() -> None:
    class Stubborn(FakeChild):
        stop_seconds = 0.05

        def stop(self) -> None:
            events.append("stop a")

    events: list[str] = []
    started = time.monotonic()
    Supervisor([Stubborn("a", events)], lambda: False).run()
    assert events[-1] == "kill a"
    assert time.monotonic() - started >= 0.05


def test_a_child_that_was_ready_just_before_it_failed_is_restarted() -> None:
    class Brief(FakeChild):
        def exit_code(self) -> int | None:
            self._ready = True  # it became ready, and then ended, between two looks at it
            return super().exit_code()

        def start(self) -> None:
            super().start()
            self._ready = False

    events: list[str] = []
    Supervisor([Brief("a", events, [5], ready=False)], lambda: events.count("start a") < 2).run()
    assert events.count("start a") == 2
