"""Imports point down the walk, files stay readable, and a bare sender needs no lake."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

SOURCE = ROOT / "src" / "questlog"
FILES = sorted(SOURCE.rglob("*.py"))

MAY_IMPORT = {
    "errors": set(),
    "record": {"errors"},
    "settings": {"errors"},
    "types": {"errors"},
    "plan": {"errors", "types"},
    "log": {"errors"},
    "shape": {"errors", "types", "record", "log", "plan"},
    "accept": {"errors", "record", "plan", "shape"},
    "web": {"errors", "types", "record", "log", "plan", "shape", "accept", "settings", "pipeline"},
    "collector": {"errors", "types", "record", "log", "plan", "accept", "web", "settings", "pipeline", "report"},
    "client": {"errors", "record", "log"},
    "lake": {"errors", "types", "log", "plan"},
    "land": {"errors", "types", "log", "plan", "shape", "lake"},
    "query": {"errors", "types", "log", "plan", "shape", "lake"},
    "export": {"errors", "query"},
    "report": {"errors", "settings", "log", "plan", "lake", "land", "query"},
}
"""Stage -> stages it may know. `pipeline`, `cli` and what users import stand above all of them."""


def imports(path: Path) -> set[str]:
    """Return the first part below `questlog` of everything *path* imports at run time."""
    tree = ast.parse(path.read_text("utf-8"))
    typing_only = {
        node
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and isinstance(guard.test, ast.Name) and guard.test.id == "TYPE_CHECKING"
        for node in ast.walk(guard)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("questlog"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("questlog.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_stage_knows_only_the_stages_below_it(path: Path) -> None:
    stage = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if stage not in MAY_IMPORT:
        return
    allowed = MAY_IMPORT[stage] | {stage, "__version__"}
    assert imports(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_sending_and_asking_never_import_the_table_format() -> None:
    """PyIceberg takes about a second to import: only the lander pays that."""
    program = (
        "import sys, questlog.accept, questlog.web.state, questlog.log.sqlite, questlog.pipeline;"
        "import questlog.query.duckdb, questlog.cli;"
        "print([m for m in sys.modules if m.split('.')[0] in ('pyiceberg', 'sqlalchemy', 'pydantic', 'flask')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_client_is_light() -> None:
    program = (
        "import sys, questlog; before = set(sys.modules); questlog.Client;"
        "heavy = ('pyarrow', 'duckdb', 'pyiceberg', 'flask', 'requests', 'questlog.plan', 'questlog.pipeline');"
        "print([m for m in sys.modules if m.startswith(heavy)],"
        " [m for m in before if m.startswith('questlog.client')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] []"


def test_a_middleware_needs_no_web_framework() -> None:
    program = (
        "import sys, questlog.middleware;"
        "print([m for m in sys.modules if m.split('.')[0] in ('flask', 'werkzeug', 'duckdb', 'pyiceberg')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_spark_worker_needs_no_table_format() -> None:
    """Each of a cluster's workers would pay the second and the 70 MB."""
    program = (
        "import sys, questlog.land.spark.workers;"
        "print([m for m in sys.modules if m.split('.')[0] in ('pyiceberg', 'sqlalchemy', 'pydantic', 'pyspark')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
