"""The tests follow the source, share helpers through one package, and wait for conditions instead of sleeping."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from support.import_graph import modules, stage
from support.paths import TESTS

ACROSS = {"cluster", "contracts", "data", "docs", "faults", "properties", "support"}
"""Folders of tests that belong to no single stage."""
FILES = sorted(TESTS.rglob("*.py"))
SLEEPS = {
    "cli/test_import.py": 1,
    "cluster/faults/test_executors.py": 2,
    "cluster/faults/test_faults.py": 5,
    "cluster/test_kafka_secure.py": 1,
    "cluster/test_presto_secure.py": 1,
    "cluster/test_s3_warehouse.py": 1,
    "cluster/test_spark_lander.py": 1,
    "cluster/test_stack.py": 1,
    "collector/test_pages.py": 1,
    "faults/test_client_kills.py": 1,
    "faults/test_lander_lease.py": 1,
    "faults/test_power_cuts.py": 1,
    "support/cluster/running_system.py": 1,
    "support/game_processes.py": 1,
    "support/waiting.py": 1,
}
"""Sleeps that are the thing under test. For anything else there is `support.waiting.until`."""


def test_a_folder_of_tests_is_named_after_a_stage() -> None:
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders - ACROSS - {stage(module) for module in modules()} == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_helpers_are_imported_from_the_support_package(path: Path) -> None:
    """Only a program that becomes another one, in a process of its own, may change where Python searches."""
    tree = ast.parse(path.read_text("utf-8"))
    changes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path"]
    assert changes == [] or path.name == "fork_server.py"


def test_tests_wait_for_conditions_instead_of_sleeping() -> None:
    found: Counter[str] = Counter()
    for path in FILES:
        for line in path.read_text("utf-8").splitlines():
            if "sleep(" in line and "sleep(0)" not in line and path.name != Path(__file__).name:
                found[str(path.relative_to(TESTS))] += 1
                assert "  # " in line, f"{path}: {line.strip()} must give its reason"
    assert found == SLEEPS
