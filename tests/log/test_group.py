"""Group commit: who waits for whom. No test depends on time: a missed wake-up would hang until the timeout."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from questlog.errors import LogUnavailable, QueueUnavailable
from questlog.log import group
from questlog.log.group import GroupCommit, Waiter
from questlog.log.worker import BackgroundCommit, LoopCommit

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
        assert self.go_on.acquire(timeout=60)
        for waiter in waiters:
            waiter.result = {1: 1}

    def append(self, line: bytes) -> threading.Thread:
        """Append in its own thread; return once it is queued or leads."""
        seen = self.queued()
        thread = threading.Thread(target=self.commit.submit, args=([line], 1))
        thread.start()
        while self.queued() == seen:
            pass
        return thread

    def queued(self) -> int:
        return len(self.commit._queue) + sum(map(len, self.groups))


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    monkeypatch.setattr(group, "GATHER_SECONDS", 3600)
    monkeypatch.setattr(GroupCommit, "_is_busy", lambda self: True)
    return Commits()


def test_work_that_arrives_during_a_commit_shares_the_next_one(commits: Commits) -> None:
    threads = [commits.append(b"a")]
    assert commits.begun.acquire(timeout=60)
    threads += [commits.append(line) for line in (b"b", b"c")]
    commits.go_on.release(2)
    while not commits.commit._is_gathering:  # three threads waited, so the next leader waits for a third
        pass
    threads.append(commits.append(b"d"))
    for thread in threads:
        thread.join()
    assert sorted(map(len, commits.groups)) == [1, 3]


def test_a_lone_thread_does_not_wait_for_others(commits: Commits) -> None:
    commits.go_on.release(3)
    for line in (b"a", b"b", b"c"):
        commits.append(line).join()
    assert commits.groups == [[b"a"], [b"b"], [b"c"]]


def test_a_leader_does_not_wait_for_others_while_the_process_is_idle(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GroupCommit, "_is_busy", lambda self: False)
    threads = [commits.append(b"a")]
    assert commits.begun.acquire(timeout=60)
    threads += [commits.append(line) for line in (b"b", b"c")]
    commits.go_on.release(2)
    for thread in threads:
        thread.join()
    assert commits.groups == [[b"a"], [b"b", b"c"]]


def test_a_leader_stops_waiting_for_threads_that_do_not_come(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "GATHER_SECONDS", 0.01)
    commits.go_on.release(4)
    threads = [commits.append(b"a")]
    commits.commit._expected = 64
    commits.append(b"b").join()
    for thread in threads:
        thread.join()
    assert commits.groups == [[b"a"], [b"b"]]
    assert commits.commit._expected == 1, "and it does not wait for them again"


# -- a callback on an event loop -------------------------------------------------------------------


class LoopCommits:
    """A commit in its own thread, held back by the test."""

    def __init__(self, **limits: Any) -> None:
        self.groups: list[list[str]] = []
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.commit = LoopCommit(self._run, name="test", **({"max_size": 100} | limits))

    def _run(self, waiters: Sequence[Waiter]) -> None:
        self.groups.append([waiter.work for waiter in waiters])
        self.begun.release()
        assert self.go_on.acquire(timeout=60)
        for waiter in waiters:
            if waiter.work == "bad":
                waiter.error = ValueError("bad")
            elif waiter.work == "stop":
                raise SystemExit
            else:
                waiter.result = True

    def append(self, work: str) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.commit.submit(
            loop, work, 1, lambda error: future.set_exception(error) if error else future.set_result(None)
        )
        return future


def run(commits: LoopCommits, work: str) -> None:
    """Append *work* from its own event loop."""

    async def append() -> None:
        await commits.append(work)

    asyncio.run(append())


def test_work_of_one_turn_shares_a_commit_and_each_gets_its_own_error() -> None:
    commits = LoopCommits()
    commits.go_on.release(1)

    async def story() -> list[object]:
        return await asyncio.gather(*map(commits.append, ("a", "bad", "c")), return_exceptions=True)

    answers = asyncio.run(story())
    assert commits.groups == [["a", "bad", "c"]]
    assert [answer and str(answer) for answer in answers] == [None, "bad", None]


def test_work_that_arrives_during_a_commit_shares_the_next_one_and_groups_are_cut_by_size() -> None:
    commits = LoopCommits(max_size=2)

    async def story() -> None:
        futures = [commits.append("a")]
        await asyncio.to_thread(commits.begun.acquire, timeout=60)
        futures += map(commits.append, ("b", "c", "d"))
        commits.go_on.release(3)
        await asyncio.gather(*futures)

    asyncio.run(story())
    assert commits.groups == [["a"], ["b", "c"], ["d"]]
    assert commits.commit.waiting == 0


def test_a_stopped_commit_fails_its_group_and_the_thread_continues() -> None:
    commits = LoopCommits()
    commits.go_on.release(2)

    async def story() -> None:
        with pytest.raises(LogUnavailable, match="was stopped: SystemExit"):
            await commits.append("stop")
        await commits.append("after")

    asyncio.run(story())


@pytest.mark.parametrize("kind", [LogUnavailable, QueueUnavailable])
def test_each_waiter_of_a_refused_commit_gets_its_own_error(kind: type[LogUnavailable]) -> None:
    """An error that several threads raise would collect all their tracebacks."""

    class Refusing(LoopCommits):
        def _run(self, waiters: Sequence[Waiter]) -> None:
            raise kind("full", hint="wait", retry_after=7)

    async def story() -> list[Any]:
        return await asyncio.gather(*map(Refusing().append, ("a", "b")), return_exceptions=True)

    errors = asyncio.run(story())
    assert [(type(e), str(e), e.hint, e.retry_after) for e in errors] == [(kind, "full", "wait", 7)] * 2
    assert errors[0] is not errors[1]


def test_a_closed_loop_does_not_stop_the_others() -> None:
    commits, lost = LoopCommits(), list[object]()
    closed_at_once, closed_later = asyncio.new_event_loop(), asyncio.new_event_loop()
    commits.commit.submit(closed_at_once, "a", 1, lost.append)
    closed_at_once.close()
    commits.commit.submit(closed_later, "b", 1, lost.append)
    closed_later.call_soon(closed_later.stop)
    closed_later.run_forever()  # until the commit is under way
    assert commits.begun.acquire(timeout=60)
    closed_later.close()
    commits.go_on.release(2)
    run(commits, "c")
    assert commits.groups == [["a", "b"], ["c"]]
    assert lost == []
    assert commits.commit.waiting == 0


def test_work_queued_as_a_commit_ends_is_committed_even_if_the_loop_of_that_commit_is_closed() -> None:
    class Delayed(LoopCommit):
        def _add(self, waiter: Any) -> None:
            if waiter.work == "b":  # it saw a commit under way; let that commit end before "b" is queued
                commits.go_on.release(2)
                answered.wait(0.5)
            super()._add(waiter)

        def _answer(self, group: Sequence[Any], seconds: float) -> None:
            super()._answer(group, seconds)
            answered.set()

    answered = threading.Event()
    commits = LoopCommits()
    commits.commit = Delayed(commits._run, name="test", max_size=100)
    closed = asyncio.new_event_loop()
    commits.commit.submit(closed, "a", 1, lambda error: None)
    closed.call_soon(closed.stop)
    closed.run_forever()
    assert commits.begun.acquire(timeout=10)
    closed.close()
    run(commits, "b")
    assert commits.groups == [["a"], ["b"]]


def test_two_loops_share_a_commit() -> None:
    commits = LoopCommits()
    threads = [threading.Thread(target=run, args=(commits, work)) for work in "abc"]
    threads[0].start()
    assert commits.begun.acquire(timeout=60)
    for thread in threads[1:]:
        thread.start()
    while commits.commit.waiting < 3:
        pass
    commits.go_on.release(3)
    for thread in threads:
        thread.join(60)
    assert [sorted(group) for group in commits.groups] == [["a"], ["b", "c"]]


def test_too_much_work_is_refused() -> None:
    commits = LoopCommits(max_waiting_size=2)

    async def story() -> None:
        futures = [*map(commits.append, "ab")]
        with pytest.raises(LogUnavailable, match="2 requests are already waiting"):
            commits.append("c")
        commits.go_on.release(2)
        await asyncio.gather(*futures)
        commits.go_on.release(1)
        await commits.append("d")

    asyncio.run(story())


# -- fire and forget -------------------------------------------------------------------------------


def test_background_work_is_committed_and_flushed_at_the_end() -> None:
    groups: list[list[str]] = []
    background = BackgroundCommit(
        lambda waiters: groups.append([waiter.work for waiter in waiters]), name="test", max_size=2, gather_seconds=3600
    )
    assert all(background.put(work, 1) for work in "abcde")
    assert background.close(10)
    assert groups == [["a", "b"], ["c", "d"], ["e"]]
    assert not background.put("late", 1)
    assert background.close(10), "closing twice is harmless"


def test_background_work_is_bounded() -> None:
    background = BackgroundCommit(
        lambda waiters: None, name="test", max_size=9, max_waiting=2, max_waiting_size=10, gather_seconds=3600
    )
    background.put("a", 9)
    with pytest.raises(LogUnavailable, match="1 requests are already waiting"):
        background.put("b", 2)
    background.put("b", 1)
    with pytest.raises(LogUnavailable, match="2 requests are already waiting"):
        background.put("c", 0)
    assert background.close(10)
    assert background.waiting == 0


def test_background_work_put_just_before_the_end_is_committed() -> None:
    class Interrupted(threading.Event):
        """Lets other work and the end arrive while the thread checks whether to end."""

        def is_set(self) -> bool:
            if threading.current_thread() is background._thread and not arrived:
                arrived.append("b")
                assert background.put("b", 1)
                self.set()
            return super().is_set()

    def commit(waiters: Sequence[Waiter]) -> None:
        groups.append([waiter.work for waiter in waiters])
        background.stopping = stopping

    groups: list[list[str]] = []
    arrived: list[str] = []
    stopping = Interrupted()
    background = BackgroundCommit(commit, name="test", max_size=9)
    background.put("a", 1)
    assert stopping.wait(10)
    background._thread.join(10)
    assert groups == [["a"], ["b"]]
