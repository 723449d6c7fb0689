"""A forked child must not close its parent's connections: DuckDB's threads exist only in the parent."""

import gc
import os
from pathlib import Path

import questlog


def test_a_forked_child_survives_garbage_collection_of_its_parents_engines(tmp_path: Path) -> None:
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
