"""The queue of `questlog.Client`: durability, limits, and sharing by threads, forks and processes."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from questlog.client import QueueFull, QueueUnavailable, queue
from questlog.errors import QuestlogError
from support.ports import free_port
from support.scripted_collector import KEY, Collector, Make, levels, settled
from support.waiting import until


def test_events_survive_an_unreachable_collector_and_the_next_process_sends_them(
    make: Make, collector: Collector
) -> None:
    away = make(url=f"http://127.0.0.1:{free_port()}")
    for level in range(3):
        away.track("level_failed", level=level)
    assert not away.flush(0.1)
    assert "no answer from" in away.error
    assert away.trouble == away.error, "its name in version 0.1.0"
    assert not away.shutdown(0)
    with pytest.raises(QuestlogError, match="shut down"):
        away.track("level_failed", level=4)
    client = make()
    until(lambda: settled(client, accepted=3), "waiting events are sent without another event")
    assert levels(collector) == [0, 1, 2]


def test_a_sequence_number_is_never_reused(make: Make, collector: Collector) -> None:
    for level in range(3):
        with make() as client:
            client.track("level_failed", level=level)
    rows = collector.project.sql("select level, sequence from level_failed order by level").rows()
    assert rows == [(0, 1), (1, 2), (2, 3)]


def test_a_full_queue_refuses_events_until_some_are_sent(make: Make, collector: Collector, tmp_path: Path) -> None:
    collector.script = [(503, {}, b"")] * 10_000
    client = make(max_queue_mb=1)
    kept = 0
    with pytest.raises(QueueFull, match=r"is full: its limit is 1 MiB") as raised:
        while True:
            client.track("level_failed", level=kept, reason="x" * 900)
            kept += 1
    assert "client.error" in raised.value.hint
    assert 500 < kept < 1200
    assert (tmp_path / "queue.db").stat().st_size <= 1 << 20
    collector.script = []
    assert client.flush(30)
    client.track("level_failed", level=kept)
    assert client.flush()
    assert levels(collector) == list(range(kept + 1))


def test_a_removed_queue_file_is_created_again(make: Make, collector: Collector, tmp_path: Path) -> None:
    client = make()
    client.track("level_failed", level=1)
    assert client.flush()
    for file in tmp_path.glob("queue.db*"):
        file.unlink()
    client.track("level_failed", level=2)
    assert client.flush()
    assert levels(collector) == [1, 2]


def test_a_damaged_queue_is_reported_and_not_changed(make: Make, tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(QueueUnavailable, match="is damaged") as raised:
        make()
    assert "move the file away" in raised.value.hint
    assert (tmp_path / "queue.db").read_bytes().startswith(b"no database")


def test_an_unwritable_folder_is_reported(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QueueUnavailable, match="File exists"):
        make(queue=tmp_path / "file" / "queue.db")


def test_only_its_owner_can_read_the_queue_and_it_is_durable(make: Make, tmp_path: Path) -> None:
    client = make(queue=tmp_path / "new" / "queue.db")
    client.track("level_failed", level=1)
    modes = [(tmp_path / "new" / name).stat().st_mode & 0o777 for name in ("", "queue.db")]
    assert modes == [0o700, 0o600]
    connection = client._queue._connection
    assert [connection.execute(f"pragma {p}").fetchone()[0] for p in ("journal_mode", "synchronous")] == ["wal", 2]


def test_the_default_queue_does_not_depend_on_the_key(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    paths = {make(url, key, queue=None)._queue.path for url in ("http://a", "http://b") for key in ("k1", "k2")}
    assert len(paths) == 2
    assert all(path.parent == tmp_path / "state" / "questlog" for path in paths)


# -- threads, processes, forks ---------------------------------------------------------------------


def test_threads_share_a_client(make: Make, collector: Collector) -> None:
    client = make()

    def run(name: int) -> None:
        for number in range(50):
            client.track("level_failed", level=name * 50 + number)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(30)
    assert levels(collector) == list(range(400))
    assert settled(client, accepted=400), "and nothing was sent twice"


PROGRAM = """
import sys, questlog
client = questlog.Client(sys.argv[1], sys.argv[2], queue=sys.argv[3], flush_seconds=0.01)
first = int(sys.argv[4])
for level in range(first, first + 50):
    client.track("level_failed", level=level)
"""


def test_processes_share_a_queue_and_send_at_exit(make: Make, collector: Collector, tmp_path: Path) -> None:
    """None of them flushes: the exit of the interpreter does, and one process sends for the others."""
    arguments = [sys.executable, "-c", PROGRAM, collector.url, KEY, str(tmp_path / "queue.db")]
    programs = [subprocess.Popen([*arguments, str(n * 50)]) for n in range(4)]
    assert [program.wait(60) for program in programs] == [0] * 4
    client = make()
    assert settled(client, accepted=200)
    assert levels(collector) == list(range(200))


def test_a_forked_child_has_its_own_sender(make: Make, collector: Collector) -> None:
    client = make()
    client.track("level_failed", level=1)
    assert client.flush()
    busy = threading.Thread(target=lambda: [client.track("level_failed", level=100 + n) for n in range(50)])
    busy.start()
    child = os.fork()
    if child == 0:
        try:
            client.track("level_failed", level=2)
            os._exit(0 if client.flush(20) else 1)
        except BaseException:
            os._exit(2)
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    client.track("level_failed", level=3)
    assert client.flush()
    assert levels(collector) == [1, 2, 3, *range(100, 150)]
    assert settled(client, accepted=53)


def test_two_clients_of_one_process_share_a_queue(make: Make, collector: Collector) -> None:
    first, second = make(), make()
    first.track("level_failed", level=1)
    second.track("level_failed", level=2)
    assert first.flush() and second.flush()
    assert levels(collector) == [1, 2]
    assert settled(second, accepted=2)


def test_shutdown_does_not_wait_for_a_hanging_collector(make: Make, collector: Collector) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        client = make(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=600)
        client.track("level_failed", level=1)
        peer, _ = silent.accept()
        assert not client.shutdown(0.2)  # the answer would take until the timeout of 600 s
        assert client._sender._thread is not None and not client._sender._thread.is_alive()
        peer.close()
    assert make().flush()
    assert levels(collector) == [1]


def test_a_write_waits_for_another_process(make: Make, tmp_path: Path) -> None:
    client = make()
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("begin immediate")
        timer = threading.Timer(0.2, lambda: other.execute("rollback"))
        timer.start()
        client.track("level_failed", level=1)
        timer.join()


def test_a_write_lock_that_is_never_released_is_reported(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, that of a process that was frozen during a commit."""
    monkeypatch.setattr(queue, "_BUSY_SECONDS", 0.1)
    client = make()
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        with pytest.raises(QueueUnavailable, match="locked") as raised:
            client.track("level_failed", level=1)
        assert raised.value.retry_after == 1
        other.execute("rollback")
    client.track("level_failed", level=2)
    assert client.counts()["waiting"] + client.counts()["accepted"] == 1
