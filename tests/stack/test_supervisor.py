"""The supervisor of the stack's servers, with commands of the shell for servers."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from questlog import supervise
from questlog.errors import QuestlogError
from questlog.stack import supervisor
from questlog.stack.layout import USUAL_PORTS, StackLayout
from questlog.stack.servers import Server
from questlog.stack.supervisor import StackSupervisor


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give this process its signal handlers back."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("end", ["exit 0", "exit 3", "kill -ABRT $$"])
def test_a_server_that_is_never_healthy_gets_three_attempts_however_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The JVM aborts with a signal, and the kernel kills with one: neither is a reason to retry forever."""

    def check(layout: StackLayout) -> str:
        raise ConnectionRefusedError

    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervise, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "CHECK_SECONDS", 0.01)
    starts = tmp_path / "starts"
    server = Server("a", "Server A", "a", (), lambda layout: ["sh", "-c", f"echo >> {starts}; {end}"], check)
    layout = StackLayout(tmp_path / "stack", USUAL_PORTS, Path("java"))
    with pytest.raises(QuestlogError, match="Server A cannot start: ended 3 times before it was healthy"):
        StackSupervisor(layout, [server]).run(lambda: len(starts.read_text()) < 9 if starts.exists() else True)
    assert starts.read_text() == "\n" * 3
