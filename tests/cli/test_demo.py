"""`questlog demo` exits with 0 if every result is correct, and with 1 otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest


def demo(folder: Path, change: str = "pass") -> subprocess.CompletedProcess[str]:
    program = f"import sys, questlog.cli.demo as demo; {change}; from questlog.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "demo", "--folder", str(folder)], capture_output=True, text=True, timeout=120
    )


def test_the_demo_prints_correct_results_and_keeps_its_data(tmp_path: Path) -> None:
    ran = demo(tmp_path / "demo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in (
        "correct: sword purchases = 25",
        "correct: guild joins by host = {'user1.comcast.com': 25, 'foo.gmail.com': 25}",
        "correct: guild joins = 50",
        "correct: reasons = ['not_json', 'unknown_event_type']",
        "ms after its acknowledgement (median of 20;",
    ):
        assert line in ran.stdout
    again = [sys.executable, "-m", "questlog", "-C", str(tmp_path / "demo"), "sql", "select count(*) from join_guild"]
    assert "50" in subprocess.run(again, capture_output=True, text=True, check=True).stdout
    assert demo(tmp_path / "demo").returncode == 0, "a second demo starts from scratch"


def test_without_flask_the_demo_explains_how_to_install_it(tmp_path: Path) -> None:
    ran = demo(tmp_path / "demo", "sys.modules['flask'] = None")
    assert ran.returncode == 1
    assert ran.stderr == "questlog: the demo's game is a Flask app\n  try: pip install 'questlog[flask]'\n"
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("path", ["/usr/bin:/bin", f"{Path(sys.executable).parent}:/usr/bin:/bin"])
def test_the_commands_that_the_demo_suggests_work_as_printed(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path)
    output = demo(tmp_path / "demo").stdout
    (command,) = (line for line in output.splitlines() if "sql 'select event_type" in line)
    assert "join_guild" in subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "change",
    [
        "demo.ROUNDS = (('user1.comcast.com', '/purchase_a_sword', 24), *demo.ROUNDS[1:])",
        "demo.ROUNDS = (*demo.ROUNDS[:2], ('bar.gmail.com', '/join_guild', 25))",
        "demo._send_bad = lambda pipeline: None",
    ],
)
def test_a_wrong_result_fails_the_demo(tmp_path: Path, change: str) -> None:
    ran = demo(tmp_path / "demo", change)
    assert (ran.returncode, "wrong answer for" in ran.stderr) == (1, True)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    ran = demo(tmp_path)
    assert (ran.returncode, "holds something else" in ran.stderr) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
