"""The stack as users run it: started, checked by real operations, restarted when killed, stopped, its data kept."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from questlog.errors import QuestlogError
from questlog.stack import Stack
from questlog.stack.fetch import fetch, part_folder
from support.waiting import until

SERVERS = ["kafka", "namenode", "datanode", "metastore", "presto"]


def questlog(stack: Stack, *words: str, seconds: float = 120, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run `questlog stack …` on *stack*, optionally with another PATH."""
    command = [sys.executable, "-m", "questlog", "stack", "--dir", str(stack.folder), *words]
    environment = {**os.environ, "QUESTLOG_STACK_PORTS": "free", "PATH": path or os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)


def processes_of(folder: Path) -> list[int]:
    """Return the other processes with *folder* in their command line."""
    pids = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(str(folder) in word for word in process.info["cmdline"] or ()):
            pids.append(process.pid)
    return pids


def test_every_server_passes_its_health_check(stack: Stack) -> None:
    answer = questlog(stack, "status", "--json")
    servers = {each["name"]: each for each in json.loads(answer.stdout)}
    assert answer.returncode == 0
    assert list(servers) == SERVERS
    acts = {name: each["found"] for name, each in servers.items()}
    assert [acts["kafka"], acts["namenode"], acts["datanode"]] == [
        "produced and consumed", "listed /", "wrote and read a file",
    ]  # fmt: skip
    assert acts["metastore"].endswith("databases") and acts["presto"].endswith("of the Iceberg catalog")
    assert sum(each["memory_mb"] for each in servers.values()) < 3500


def test_the_tools_find_the_servers(stack: Stack) -> None:
    made = questlog(stack, "exec", "kafka-topics", "--create", "--topic", "tools", "--partitions", "2")
    assert (made.returncode, made.stdout.strip()) == (0, "Created topic tools."), made.stderr
    assert "tools" in questlog(stack, "exec", "kafka-topics", "--list").stdout.split()
    assert questlog(stack, "exec", "hadoop", "fs", "-mkdir", "-p", "/tools").returncode == 0
    assert "/tools" in questlog(stack, "exec", "hadoop", "fs", "-ls", "/").stdout
    ran = questlog(stack, "exec", "presto", "--execute", "show catalogs", "--output-format", "TSV")
    assert {"hive", "iceberg"} <= set(ran.stdout.split()), ran.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_a_killed_server_restarts_with_its_data(stack: Stack, name: str) -> None:
    questlog(stack, "exec", "hadoop", "fs", "-mkdir", "-p", "/kept")
    questlog(stack, "exec", "kafka-topics", "--create", "--if-not-exists", "--topic", "kept")
    before = {each.name: each for each in stack.status()}[name]
    os.kill(before.pid, signal.SIGKILL)

    def back() -> bool:
        now = {each.name: each for each in stack.status()}[name]
        return now.healthy and now.pid != before.pid

    until(back, "it is started again", 120)
    until(lambda: all(each.healthy for each in stack.status()), "all are healthy", 120)
    assert "/kept" in questlog(stack, "exec", "hadoop", "fs", "-ls", "/").stdout
    assert "kept" in questlog(stack, "exec", "kafka-topics", "--list").stdout.split()
    assert before.restarts + 1 == {each.name: each for each in stack.status()}[name].restarts


def test_a_second_supervisor_is_refused(stack: Stack) -> None:
    refused = questlog(stack, "up", "--only", "kafka")
    assert refused.returncode == 3
    assert "is already running" in refused.stderr


def test_down_stops_all_servers_even_if_the_supervisor_was_killed(tmp_path: Path) -> None:
    alone = Stack(tmp_path / "s", ports="free", only=["kafka"])
    alone.up(while_pid=os.getpid())
    try:
        questlog(alone, "exec", "kafka-topics", "--create", "--topic", "kept")
        (kafka,) = alone.status()
        supervisor = json.loads((alone.folder / "run" / "supervisor.json").read_text())["pid"]
        os.kill(supervisor, signal.SIGKILL)
        os.waitpid(supervisor, 0)
        alone.up(while_pid=os.getpid())
        assert kafka.pid == alone.status()[0].pid, "a new supervisor takes over what runs"
        os.kill(json.loads((alone.folder / "run" / "supervisor.json").read_text())["pid"], signal.SIGKILL)
        assert alone.down()
        assert processes_of(alone.folder) == []
        alone.up(while_pid=os.getpid())
        assert "kept" in questlog(alone, "exec", "kafka-topics", "--list").stdout.split()
    finally:
        alone.down()
    assert processes_of(alone.folder) == []


def test_ctrl_c_stops_a_stack_in_the_foreground(tmp_path: Path) -> None:
    environment = {**os.environ, "QUESTLOG_STACK_PORTS": "free"}
    words = [sys.executable, "-m", "questlog", "stack", "--dir", str(tmp_path / "s"), "up", "--only", "kafka"]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert running.stdout is not None
    assert running.stdout.readline().startswith("kafka")
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 0
    assert processes_of(tmp_path / "s") == []


def test_servers_stop_with_the_process_that_owns_them(tmp_path: Path) -> None:
    program = (
        "import os, sys; from questlog.stack import Stack;"
        "Stack(sys.argv[1], ports='free', only=['kafka']).up(while_pid=os.getpid()); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "s"
    assert subprocess.run([sys.executable, "-c", program, str(folder)], timeout=120).returncode == -9
    until(lambda: not processes_of(folder), seconds=30)


def test_an_interrupted_fetch_starts_over_and_two_at_once_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    words = [sys.executable, "-c", "from questlog.stack.fetch import fetch; print(fetch('spark'))"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(random.Random(seed).uniform(0.2, 2.5))  # a random moment
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [f"{part_folder('spark')}\n"] * 2 == [each.communicate(timeout=120)[0] for each in both]
    assert len(list(part_folder("spark").glob("*.jar"))) == 6


def test_a_file_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from questlog.stack import fetch as module

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = dict(module._recorded("spark", module.HOME))
    name = sorted(whole)[0]
    monkeypatch.setattr(module, "_recorded", lambda part, home: {**whole, name: "0" * 64})
    with pytest.raises(QuestlogError, match=rf"1 files do not match the recorded checksums, the first: {name}"):
        fetch("spark")
    assert not part_folder("spark").exists()


def test_a_port_in_use_is_named_with_its_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        busy = Stack(tmp_path / "s", ports=f"kafka={port}", only=["kafka"])
        with pytest.raises(QuestlogError, match=rf"port {port} \(kafka\) is held by process {os.getpid()} "):
            busy.up()
