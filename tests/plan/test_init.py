"""`questlog init` starts a project that works at once, and never overwrites one."""

import subprocess
import sys
from pathlib import Path

import pytest

from questlog.cli.init import starter
from questlog.plan import MODES, Field
from questlog.plan.load import parse_plan
from questlog.plan.parse import WORDS


def questlog(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "questlog", *arguments]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=180)


def test_a_new_project_accepts_the_events_of_its_next_steps(tmp_path: Path) -> None:
    ran = questlog(tmp_path, "init", "castle")
    assert ran.returncode == 0
    assert ran.stdout.startswith("wrote castle/plan.toml\n\nNext:\n  cd castle\n")
    project = tmp_path / "castle"
    checked = questlog(project, "plan", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    command = next(line for line in ran.stdout.splitlines() if line.strip().startswith("echo"))
    event = command.split("'")[1]
    assert questlog(project, "import", "-", text=event + "\n").returncode == 0
    answer = questlog(project, "sql", "select item, price, currency from purchases", "--format", "csv")
    assert answer.stdout.split() == ["item,price,currency", "sword,5.00,gold"]


def test_an_existing_plan_is_never_changed(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("# mine\n")
    ran = questlog(tmp_path, "init")
    assert ran.returncode == 1
    assert ran.stderr == "questlog: plan.toml already exists; nothing was changed\n  try: questlog -C . plan check\n"
    assert (tmp_path / "plan.toml").read_text() == "# mine\n"


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "castle").write_text("a file")
    ran = questlog(tmp_path, "init", "castle/inner")
    assert ran.returncode == 1
    assert "castle/inner is not a folder; nothing was changed" in ran.stderr


def test_a_project_inside_another_is_reported(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("")
    ran = questlog(tmp_path, "init", "castle")
    assert ran.returncode == 0
    assert f"lies in another project, {tmp_path}" in ran.stderr


@pytest.mark.parametrize("name", ["castle", 'a "b"\\', "两\nlines\u2028", "x" * 300])
def test_the_starter_loads_with_any_game_name(name: str) -> None:
    assert parse_plan(starter(name)).game == name


def test_the_starter_explains_every_type_mode_and_option() -> None:
    text = starter("castle")
    words = [*WORDS, *MODES]
    words += [f"{name} = " for name in Field.__dataclass_fields__ if name not in ("name", "type")]
    assert [word for word in words if word not in text] == []
