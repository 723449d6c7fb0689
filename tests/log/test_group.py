"""Group commit: who waits for whom. Time is no input here: a missed wake-up would hang and run into the limit."""

import threading
from collections.abc import Sequence

import pytest

from questlog.log import group
from questlog.log.group import GroupCommit, Waiter

pytestmark = pytest.mark.timeout(20)


class Commits:
    """A commit that the test holds back."""

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.commit = GroupCommit(self._run, max_size=1 << 20)

    def _run(self, waiters: Sequence[Waiter]) -> None:
        self.groups.append([line for waiter in waiters for line in waiter.work])
        self.begun.release()
        assert self.go_on.acquire(timeout=10)
        for waiter in waiters:
            waiter.result = {1: 1}

    def append(self, line: bytes) -> threading.Thread:
        """Append in a thread of its own, and return once it is in line or leads."""
        seen = self.in_line()
        thread = threading.Thread(target=self.commit.submit, args=(Waiter([line], 1),))
        thread.start()
        while self.in_line() == seen:
            pass
        return thread

    def in_line(self) -> int:
        return len(self.commit._queue) + sum(map(len, self.groups))


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    monkeypatch.setattr(group, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(GroupCommit, "_is_busy", lambda self: True)
    return Commits()


def test_what_comes_during_a_commit_shares_the_next_one(commits: Commits) -> None:
    threads = [commits.append(b"a")]
    assert commits.begun.acquire(timeout=10)
    threads += [commits.append(line) for line in (b"b", b"c")]
    commits.go_on.release(2)
    while not commits.commit._gathering:  # three were known to wait: the next leader waits for the third
        pass
    threads.append(commits.append(b"d"))
    for thread in threads:
        thread.join()
    assert sorted(map(len, commits.groups)) == [1, 3]


def test_nobody_waits_for_others_when_alone(commits: Commits) -> None:
    commits.go_on.release(3)
    for line in (b"a", b"b", b"c"):
        commits.append(line).join()
    assert commits.groups == [[b"a"], [b"b"], [b"c"]]


def test_nobody_waits_for_others_while_there_is_time(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupCommit, "_is_busy", lambda self: False)
    threads = [commits.append(b"a")]
    assert commits.begun.acquire(timeout=10)
    threads += [commits.append(line) for line in (b"b", b"c")]
    commits.go_on.release(2)
    for thread in threads:
        thread.join()
    assert commits.groups == [[b"a"], [b"b", b"c"]]


def test_a_leader_that_waits_in_vain_goes_on(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "GATHER_SECONDS", 0.01)
    commits.go_on.release(4)
    threads = [commits.append(b"a")]
    commits.commit._expected = 64
    commits.append(b"b").join()
    for thread in threads:
        thread.join()
    assert commits.groups == [[b"a"], [b"b"]]
    assert commits.commit._expected == 1, "and does not wait for them again"
