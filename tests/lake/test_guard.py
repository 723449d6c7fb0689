"""A copied, moved or half-lost project must not harm data: landing refuses, and maintenance deletes nothing."""

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

import pytest

from questlog.errors import ProjectMoved, QuestlogError
from questlog.lake.iceberg import IcebergTables
from questlog.lake.maintenance import Maintenance
from questlog.pipeline import open_pipeline
from questlog.record import encode_record


def make_project(folder: Path) -> Path:
    folder.mkdir()
    (folder / "plan.toml").write_text("[events.step.fields]\nn = 'int'\n")
    return folder


def land(folder: Path, batches: int = 1, **settings: object) -> None:
    """Land one event per batch, so that each batch is a small file."""
    pipeline = open_pipeline(folder, **settings)
    for _ in range(batches):
        record = encode_record(b'{"event_type": "step", "n": 1}', id=os.urandom(8).hex(), received_ms=1_790_000_000_000)
        pipeline.log.append([record])
        with pipeline.lander() as lander:
            lander.drain()
    pipeline.log.close()


def maintain(folder: Path, hours: float = 1, **settings: object) -> None:
    """Run table maintenance as if *hours* had passed, until it has nothing left to do."""
    project = open_pipeline(folder, **settings).project
    tables = IcebergTables(project.catalog, project.warehouse)
    later = hours * 3600
    maintenance = Maintenance(
        tables, lambda: None, clock=lambda: time.time() + later, monotonic=lambda: time.monotonic() + later
    )
    while maintenance.step():
        pass
    tables.close()


def count(folder: Path, **settings: object) -> int:
    with open_pipeline(folder, **settings) as pipeline:
        ((number,),) = pipeline.sql("select count(*) from step").rows()
    return int(number)


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of every file in the lake."""
    files = (path for path in (folder / ".questlog" / "lake").rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_landing_in_a_copy_is_refused_and_leaves_the_original_untouched(tmp_path: Path) -> None:
    original, copy = make_project(tmp_path / "original"), tmp_path / "copy"
    land(original, 7)
    shutil.copytree(original, copy)
    before = contents(original)
    for _ in range(14):  # enough commits for the original's files to be merged, expired and deleted
        with pytest.raises(ProjectMoved, match="this project is a copy") as refusal:
            land(copy)
        assert str(original) in str(refusal.value) and "use the original" in refusal.value.hint
    with pytest.raises(ProjectMoved):
        maintain(copy)
    with pytest.raises(ProjectMoved):
        count(copy)
    assert contents(original) == before
    assert count(original) == 7


def test_landing_in_a_moved_project_is_refused_until_the_old_path_leads_to_it(tmp_path: Path) -> None:
    castle, fortress = make_project(tmp_path / "castle"), tmp_path / "fortress"
    land(castle, 2)
    castle.rename(fortress)
    with pytest.raises(ProjectMoved, match="this project was moved") as refusal:
        land(fortress)
    assert f"ln -s {fortress}/.questlog/lake {castle}/.questlog/lake" in refusal.value.hint
    castle.symlink_to(fortress)
    land(fortress)
    assert count(fortress) == 4  # the event that was refused landing waited in the log


@pytest.mark.parametrize("spelling", ["link", "data_link", "relative", "absolute"])
def test_another_spelling_of_the_same_folder_can_still_land(tmp_path: Path, spelling: str) -> None:
    project = make_project(tmp_path / "game")
    land(project, 9)
    settings: dict[str, object] = {}
    if spelling == "link":
        (tmp_path / "link").symlink_to(project)
        project = tmp_path / "link"
    elif spelling == "data_link":
        (tmp_path / "elsewhere").symlink_to(project / ".questlog")
        settings = {"data": str(tmp_path / "elsewhere")}
    elif spelling == "relative":
        settings = {"data": "../game/.questlog"}
    else:
        settings = {"data": str(project / ".questlog")}
    maintain(project, **settings)
    land(project, 12, **settings)
    maintain(project, hours=2, **settings)
    assert count(project, **settings) == 21


def test_live_files_that_version_0_1_took_for_garbage_under_another_spelling_are_kept(tmp_path: Path) -> None:
    project, link = make_project(tmp_path / "game"), tmp_path / "link"
    land(project, 3)
    link.symlink_to(project / ".questlog")
    pipeline = open_pipeline(project, data=str(link))
    tables = IcebergTables(pipeline.project.catalog, pipeline.project.warehouse)
    for path in (link / "lake" / "questlog" / "step").rglob("*.*"):
        tables.state.execute("insert into questlog_garbage values (?, 'step', 0, 0)", (str(path),))
    tables.close()
    maintain(project, data=str(link))
    assert count(project) == 3
    land(project, 9)
    maintain(project, hours=2)
    assert count(project) == 12


def test_a_data_folder_behind_a_link_may_move_with_it(tmp_path: Path) -> None:
    project = make_project(tmp_path / "game")
    (tmp_path / "disk1").mkdir()
    (project / ".questlog").symlink_to(tmp_path / "disk1")
    land(project, 2)
    (tmp_path / "disk1").rename(tmp_path / "disk2")
    (project / ".questlog").unlink()
    (project / ".questlog").symlink_to(tmp_path / "disk2")
    land(project)
    maintain(project)
    assert count(project) == 3


def test_maintenance_keeps_a_file_outside_the_lake_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    project, stranger = make_project(tmp_path / "game"), tmp_path / "stranger.parquet"
    land(project)
    stranger.write_text("not ours")
    pipeline = open_pipeline(project)
    tables = IcebergTables(pipeline.project.catalog, pipeline.project.warehouse)
    tables.state.execute("insert into questlog_garbage values (?, 'step', 0, 0)", (str(stranger),))
    inside = pipeline.project.warehouse / ".." / ".." / ".." / stranger.name
    tables.state.execute("insert into questlog_garbage values (?, 'step', 0, 0)", (str(inside),))
    tables.close()
    with caplog.at_level(logging.ERROR):
        maintain(project)
    assert stranger.read_text() == "not ours"
    assert f"kept {stranger}" in caplog.text


def test_no_file_is_written_outside_the_lake_folder(tmp_path: Path) -> None:
    """Not even if a table's own metadata has another location."""
    project = make_project(tmp_path / "game")
    land(project)
    (newest,) = (project / ".questlog" / "lake" / "questlog" / "step").glob("metadata/*.metadata.json")
    lake = str(project / ".questlog" / "lake")
    newest.write_text(newest.read_text().replace(f'"location":"{lake}', f'"location":"{tmp_path / "other"}'))
    with pytest.raises(ProjectMoved, match="outside the lake folder"):
        land(project)
    assert not (tmp_path / "other").exists()


def test_no_catalog_is_created_where_the_lake_holds_tables(tmp_path: Path) -> None:
    project = make_project(tmp_path / "game")
    land(project, 3)
    before = contents(project)
    for file in (project / ".questlog").glob("catalog.db*"):
        file.unlink()
    for act in (land, count, maintain):
        with pytest.raises(QuestlogError, match=r"catalog\.db is missing or empty") as refusal:
            act(project)
        assert "restore catalog.db" in refusal.value.hint
        assert not (project / ".questlog" / "catalog.db").exists()
    assert contents(project) == before


def test_an_empty_catalog_is_refused_like_a_missing_one(tmp_path: Path) -> None:
    project = make_project(tmp_path / "game")
    land(project)
    for file in (project / ".questlog").glob("catalog.db*"):
        file.unlink()
    (project / ".questlog" / "catalog.db").touch()
    with pytest.raises(QuestlogError, match="missing or empty"):
        land(project)


def test_a_sweep_that_would_delete_more_than_it_keeps_stops_and_reports(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An old copy of the catalog names few of the files."""
    project = make_project(tmp_path / "game")
    land(project)
    old = (project / ".questlog" / "catalog.db").read_bytes()
    land(project, 6)
    for file in (project / ".questlog").glob("catalog.db*"):
        file.unlink()
    (project / ".questlog" / "catalog.db").write_bytes(old)
    before = contents(project)
    with caplog.at_level(logging.ERROR):
        maintain(project)
        maintain(project, hours=2)
    assert contents(project).items() >= before.items()
    assert "sweep stopped" in caplog.text


def test_a_sweep_still_deletes_files_left_by_a_failed_commit(tmp_path: Path) -> None:
    project = make_project(tmp_path / "game")
    land(project, 3)
    left = project / ".questlog" / "lake" / "questlog" / "step" / "data" / "left.parquet"
    left.write_text("a commit that died")
    maintain(project)
    maintain(project, hours=2)
    assert not left.exists()
    assert count(project) == 3
