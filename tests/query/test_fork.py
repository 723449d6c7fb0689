"""A forked child and the connections of its parent: DuckDB's threads stay behind, so the child may not close them."""

import gc
import os
from pathlib import Path

import questlog


def test_a_forked_child_survives_the_collection_of_its_parents_garbage(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[events.hit]\n")
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            pipeline = questlog.open(str(tmp_path))
            pipeline.itself = pipeline  # type: ignore[attr-defined]  # only the collector frees a cycle
            pipeline.sql("show tables")
            del pipeline
        pid = os.fork()
        if pid == 0:
            gc.collect()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        gc.enable()
