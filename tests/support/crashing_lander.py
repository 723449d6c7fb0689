"""A small project to land, and landers that die at their k-th effect on the disk.

The lander runs in a real process and dies by `os._exit`, so that no clean-up code runs.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from questlog.pipeline import open_pipeline
from questlog.record import encode_record

PLAN = """
[events.join_guild]
[events.join_guild.fields]
guild = "string"
[events.purchase_sword.fields]
price = "decimal(12,2)"
"""
BATCH = 8
DIED = 77

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(
    ["questlog.land.loop", "questlog.query.duckdb", "questlog.pipeline", "support.crashing_lander"]
)


def records(count: int, seed: int, start: int = 0) -> list[bytes]:
    """Return records with every outcome: two types, bad events, unknown types, and retried ids."""
    chance = random.Random(seed)
    made = []
    for number in range(start, start + count):
        kind = chance.choice(["guild", "guild", "sword", "bad", "unknown", "again"])
        body = {
            "guild": b'{"event_type": "join_guild", "guild": "wolves"}',
            "sword": b'{"event_type": "purchase_sword", "price": "1.50"}',
            "bad": b'{"event_type": "purchase_sword", "price": "a lot"}',
            "unknown": b'{"event_type": "nobody_knows_this"}',
            "again": b'{"event_type": "join_guild", "guild": "bears"}',
        }[kind]
        event_id = f"again-{number % 3}" if kind == "again" else f"e{number}"
        made.append(encode_record(body, id=event_id, received_ms=1_790_000_000_000 + number, client_id=kind == "again"))
    return made


def make_project(folder: Path, groups: list[list[bytes]]) -> Path:
    """Create a project whose log holds *groups*, one group commit each."""
    folder.mkdir(parents=True)
    (folder / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(folder, min_free_mb=0)  # some tests use a disk smaller than the watermark
    for group in groups:
        pipeline.log.append(group)
    pipeline.log.close()  # type: ignore[attr-defined]
    return folder


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def land(folder: Path, **settings: Any) -> None:
    """Land everything, with maintenance that finds work often."""
    from questlog.lake import maintenance, version

    maintenance.MERGE_FILES = 2
    maintenance._CROWDED = maintenance._CROWDED.replace(f">= {8} limit", ">= 2 limit")
    version.KEEP_SNAPSHOTS = version.KEEP_METADATA = 2
    version.FOLD_MANIFESTS = 3
    with open_pipeline(folder, batch_records=BATCH, **settings).lander() as lander:
        lander._maintenance._grace_ms = 0
        lander.drain()
        for _ in range(20):
            if not lander._maintenance.step():
                break


def land_mutated(folder: str, mutant: str) -> None:
    """Land with a defect from `mutations.py`."""
    from support.mutations import MUTATIONS

    MUTATIONS[mutant](10_000)
    land(Path(folder))


def land_and_die(folder: str, point: int, after: bool, mutant: str = "") -> None:
    """Land, and die just before or after the *point*-th effect on the disk. Runs in its own process."""
    if mutant:
        from support.mutations import MUTATIONS

        MUTATIONS[mutant](10_000)
    from questlog.lake import state

    done = 0
    lock = threading.Lock()

    def dying(work: Callable[..., Any]) -> Callable[..., Any]:
        def effect(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            with lock:
                done += 1
                here = done == point
            if here and not after:
                os._exit(DIED)
            result = work(*args, **kwargs)
            if here:
                os._exit(DIED)
            return result

        return effect

    os.fsync = dying(os.fsync)
    pathlib.Path.unlink = dying(pathlib.Path.unlink)  # type: ignore[method-assign]
    state.transaction.__exit__ = dying(state.transaction.__exit__)  # type: ignore[method-assign]
    land(Path(folder))
    os._exit(0)


def in_process(work: Callable[..., Any], *args: Any, expect: tuple[int, ...] = (0,)) -> int:
    """Run *work* in a fresh process; return its exit code, which must be one of *expect*."""
    process = forked.Process(target=work, args=args)
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{work.__name__}{args} hung")
    code = process.exitcode
    process.close()
    assert code in expect, f"{work.__name__}{args} ended with {code}"
    return int(code or 0)


def facts(folder: Path) -> dict[str, Any]:
    """Return everything that a crash must not change: the rows of every table, the ledger, the checkpoint."""
    from questlog.lake.ledger import read_ledger
    from questlog.lake.state import connect, read_state

    pipeline = open_pipeline(folder)
    with closing(connect(pipeline.project.catalog)) as connection:
        state = read_state(connection)
    ledger = read_ledger(pipeline.project.catalog, pipeline.log.end())
    found: dict[str, Any] = {}
    import pyarrow.parquet as pq

    for name, table in state.tables.items():
        ids = Counter[str]()
        for path in table.files:
            ids.update(pq.read_table(path, columns=["event_id"]).column(0).to_pylist())
        assert table.rows == sum(ids.values())
        found[name] = dict(sorted(ids.items()))
    assert ledger.imbalance == 0, ledger
    assert not ledger.half_landed
    found["ledger"] = sorted((r.outcome, r.table, r.event_type, r.reason, r.records) for r in ledger.rows)
    found["progress"] = dict(state.checkpoint)
    return found


def iceberg_agrees(folder: Path) -> None:
    """Assert that PyIceberg reads the same files as our own list names, and that all of them exist."""
    from pyiceberg.table import StaticTable

    from questlog.lake.state import load_state

    for table in load_state(open_pipeline(folder).project.catalog).tables.values():
        planned = {
            task.file.file_path for task in StaticTable.from_metadata(table.metadata_location).scan().plan_files()
        }
        assert planned == set(table.files)
        assert all(os.path.exists(path) for path in planned)
