"""Which module of questlog imports which, read from the source: late and type-only imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

from support.paths import ROOT

SOURCE = ROOT / "src" / "questlog"


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = ("questlog", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of questlog with its syntax tree."""
    return {module_name(path): ast.parse(path.read_text("utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


@cache
def import_graph() -> dict[str, set[str]]:
    """Return every module with the modules of questlog that it imports, anywhere in its file and for any reason.

    Starting `python -m questlog …` as a process counts as importing `questlog.cli`.
    In a module that calls `import_module`, a text that is a module's name counts as importing it.
    A package's `__init__` is imported by those that name something in it, not by those that name a module below it.
    """
    return {module: set(_imported(tree)) - {module} for module, tree in modules().items()}


def _imported(tree: ast.Module) -> Iterator[str]:
    by_name = any(isinstance(node, ast.Attribute) and node.attr == "import_module" for node in ast.walk(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute here"
            for alias in node.names:
                yield from _modules_of(f"{node.module}.{alias.name}", node.module or "")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules_of(alias.name)
        elif isinstance(node, ast.List | ast.Tuple):
            words = [element.value if isinstance(element, ast.Constant) else None for element in node.elts]
            for option, program in pairwise(words):
                if option == "-m" and isinstance(program, str):
                    yield from _modules_of("questlog.cli" if program == "questlog" else program)
        elif by_name and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _modules_of(node.value)


def _modules_of(*names: str) -> Iterator[str]:
    """Yield the first of *names* that is a module of questlog."""
    yield from [name for name in names if name in modules()][:1]


def stage(module: str) -> str:
    """Return the stage of a module: the first part of its name below `questlog`, or `questlog` for the package."""
    return module.split(".")[1] if "." in module else module


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one import cycle, first and last the same, or an empty list if there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(graph[module]):
            if cycle := visit(imported, [*path, module]):
                return cycle
        done.add(module)
        return []

    for module in sorted(graph):
        if cycle := visit(module, []):
            return cycle
    return []
