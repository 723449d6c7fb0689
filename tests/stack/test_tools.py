"""`questlog stack exec` adds the stack's addresses, and reports a missing tool."""

from pathlib import Path

import pytest

from questlog.errors import NotInstalled, QuestlogError
from questlog.stack.layout import USUAL_PORTS, StackLayout
from questlog.stack.tools import build


@pytest.fixture
def layout(tmp_path: Path) -> StackLayout:
    return StackLayout(tmp_path, USUAL_PORTS, Path("java"))


def test_kcat_is_run_against_the_broker_of_the_stack(
    layout: StackLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kafkacat"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build(layout, "kcat", ["-L"], "main") == ([str(program), "-b", "127.0.0.1:9092", "-L"], {})
    assert build(layout, "kcat", ["-b", "other:9092", "-L"], "main") == ([str(program), "-b", "other:9092", "-L"], {})


def test_a_missing_kcat_is_an_error_with_a_hint(
    layout: StackLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotInstalled, match="kcat is not installed") as refused:
        build(layout, "kcat", ["-L"], "main")
    assert refused.value.hint == "apt-get install kcat, or brew install kcat"


def test_an_unknown_tool_is_refused_with_the_names_of_all(layout: StackLayout) -> None:
    with pytest.raises(QuestlogError, match="there is no tool kafkactl") as refused:
        build(layout, "kafkactl", [], "main")
    assert "kcat" in refused.value.hint
