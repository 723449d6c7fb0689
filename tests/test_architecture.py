"""Imports point down the walk and form no cycle, files stay readable, and a sender imports no lake."""

import ast
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from support.import_graph import SOURCE, find_cycle, import_graph, module_name, modules, stage
from support.paths import ROOT

GROUND = {
    "errors": set(),
    "durable": {"errors"},
    "types": {"errors"},
    "settings": {"errors"},
    "stopping": set(),
    "record": set(),
    "printable": set(),
    "messages": {"printable"},
    "supervise": {"errors", "stopping"},
}
"""Every stage may import these; they import only each other."""

MAY_IMPORT = {
    "plan": set(),
    "log": set(),
    "shape": {"log", "plan"},
    "accept": {"plan", "shape"},
    "client": {"log"},
    "lake": {"log", "plan"},
    "land": {"log", "plan", "shape", "lake"},
    "backfill": {"log", "plan", "shape", "lake", "land"},
    "query": {"log", "plan", "shape", "lake"},
    "export": {"plan", "query"},
    "stack": {"query"},
    "report": {"log", "plan", "lake", "land", "query", "stack"},
    "pipeline": {"log", "plan", "lake", "land", "backfill", "query", "export", "stack", "report"},
    "suggest": {"log", "plan", "shape"},
    "importer": {"plan", "accept", "backfill", "pipeline"},
    "promote": {"log", "plan", "lake", "land", "query", "report", "pipeline"},
    "web": {"log", "plan", "shape", "accept", "pipeline"},
    "flask": {"web"},
    "middleware": {"web"},
    "testing": {"web"},
    "questlog": {"client", "pipeline", "web"},
    "collector": {"log", "plan", "accept", "report", "pipeline", "questlog"},
    "jobs": {"pipeline"},
    "cli": {
        "accept", "collector", "export", "importer", "jobs", "lake", "land", "log", "pipeline", "plan", "promote",
        "query", "backfill", "report", "shape", "stack", "suggest", "questlog",
    },
    "__main__": {"cli"},
}  # fmt: skip
"""Stage -> the stages it may import, besides the ground floor. A row names only rows above it."""

TREES = [pytest.param(name, tree, id=name) for name, tree in modules().items()]
each_module = pytest.mark.parametrize(("module", "tree"), TREES)


@each_module
def test_a_module_imports_only_the_stages_its_row_names(module: str, tree: ast.Module) -> None:
    assert stage(module) in GROUND | MAY_IMPORT, f"{stage(module)} has no row in MAY_IMPORT"
    allowed = GROUND[stage(module)] if stage(module) in GROUND else MAY_IMPORT[stage(module)] | GROUND.keys()
    imported = {stage(each) for each in import_graph()[module]}
    assert imported - allowed - {stage(module)} == set()


@pytest.mark.parametrize("table", [GROUND, MAY_IMPORT], ids=["the ground floor", "the stages"])
def test_a_row_names_only_rows_above_it(table: dict[str, set[str]]) -> None:
    rows = list(table)
    upward = {(row, other) for row in rows for other in table[row] if other not in rows[: rows.index(row)]}
    assert upward == set()


@pytest.mark.parametrize("table", [GROUND, MAY_IMPORT], ids=["the ground floor", "the stages"])
def test_a_row_names_only_what_its_stage_imports(table: dict[str, set[str]]) -> None:
    used = {row: {stage(each) for module in modules() if stage(module) == row for each in import_graph()[module]}
            for row in table}  # fmt: skip
    assert {row: table[row] - used[row] for row in table if table[row] - used[row]} == {}


def test_every_row_names_a_stage_that_exists() -> None:
    assert (GROUND | MAY_IMPORT).keys() == {stage(module) for module in modules()}


def test_no_import_cycle_exists() -> None:
    assert " -> ".join(find_cycle(import_graph())) == ""


@each_module
def test_a_file_has_at_most_400_lines(module: str, tree: ast.Module) -> None:
    path = SOURCE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert module_name(path) == module
    assert len(path.read_text("utf-8").splitlines()) <= 400


@each_module
def test_a_function_has_at_most_60_lines(module: str, tree: ast.Module) -> None:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [each.name for each in functions if (each.end_lineno or 0) - each.lineno + 1 > 60] == []


DURABLE_CALLS = {("os", "fsync"), ("fcntl", "flock"), ("fcntl", "lockf"), ("sqlite3", "connect")}
NOT_DURABLE = {
    "questlog.durable": DURABLE_CALLS,
    "questlog.report.doctor": {("os", "fsync")},  # measures how long one takes
    "questlog.land.spark.state": {("sqlite3", "connect")},  # a temporary database without a name, gone with its process
}
"""Modules that may do these calls, and why they do not leave it to durable.py."""


@each_module
def test_only_durable_syncs_locks_and_opens_databases(module: str, tree: ast.Module) -> None:
    calls = {
        (node.value.id, node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    calls |= {
        (node.module or "", alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert calls & DURABLE_CALLS <= NOT_DURABLE.get(module, set())


@each_module
def test_every_module_starts_with_a_docstring(module: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree)


def test_no_class_name_is_used_twice() -> None:
    modules_of = defaultdict(list)
    for module, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                modules_of[node.name].append(module)
    assert {name: found for name, found in modules_of.items() if len(found) > 1} == {}


def test_sending_and_querying_never_import_the_table_format() -> None:
    """PyIceberg takes about a second to import: only the lander pays that."""
    program = (
        "import sys, questlog.accept, questlog.web.recorder, questlog.log.sqlite, questlog.pipeline;"
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


PAGE = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
PATHS = sorted(set(re.findall(r"`([\w-]+(?:/[\w.-]*)+|[\w-]+\.py)`", PAGE)))
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)`(?:,| \|) `([\w.]+(?<!\.py))(?:\([^`]*\))?`", PAGE)))
DATA_FOLDER = {"imports/", "lake/"}


@pytest.mark.parametrize("path", sorted(set(PATHS) - DATA_FOLDER))
def test_a_path_in_the_architecture_page_exists(path: str) -> None:
    assert [root for root in (SOURCE, ROOT / "tests", ROOT) if (root / path).exists()] != []


@pytest.mark.parametrize(("path", "name"), NAMED, ids=str)
def test_a_function_in_the_architecture_page_is_defined_in_its_file(path: str, name: str) -> None:
    tree = ast.parse((SOURCE / path).read_text("utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert set(name.split(".")) - defined == set()


RECIPES = re.findall(r"^\| (a[^|]+?) \|.*\| `(tests/[^`]*)` \|$", PAGE, re.M)


def test_every_recipe_names_the_test_that_holds_it() -> None:
    rows = PAGE.partition("## Where to add what")[2].count("\n| ") - 1
    assert len(RECIPES) == rows > 7
