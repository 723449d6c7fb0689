"""The ledger of a project whose log was lost or replaced after it had been landed."""

import re
import shutil
from pathlib import Path

import pytest

from questlog.errors import LogUnavailable
from questlog.lake.ledger import read_ledger
from questlog.pipeline import Pipeline, open_pipeline
from questlog.record import encode_record


@pytest.fixture
def game(tmp_path: Path) -> Pipeline:
    (tmp_path / "plan.toml").write_text('[events.hit.fields]\ndamage = "int"\n')
    return open_pipeline(tmp_path)


def send(game: Pipeline, *ids: str) -> None:
    game.log.append([encode_record(b'{"event_type": "hit"}', id=i, received_ms=1_790_000_000_000) for i in ids])


def accept_loss(game: Pipeline) -> None:
    """Follow the hint: when a log has gone backwards, an operator must accept the loss."""
    with pytest.raises(LogUnavailable, match="the log went backwards") as refused:
        game.sql("select count(*) from hit")
    (gone,) = re.findall(r"\d{10}\.gone", refused.value.hint)
    for file in game.project.log_folder.glob(f"{gone.removesuffix('.gone')}-*"):
        file.rename(file.with_name(f"old-{file.name}"))
    (game.project.log_folder / gone).touch()


def test_events_accepted_after_a_lost_log_are_added_to_the_landed_ones(game: Pipeline) -> None:
    send(game, "a", "b", "c")
    with game.lander() as lander:
        lander.drain()
    shutil.rmtree(game.project.log_folder)
    again = open_pipeline(game.project.root)
    send(again, "d")
    accept_loss(again)
    ledger = read_ledger(again.project.catalog, again.log.end())
    assert (ledger.accepted, ledger.waiting, ledger.total("landed")) == (4, 1, 3)
    assert again.sql("select count(*) from hit").rows() == [(4,)]


def test_a_writer_leaves_an_old_copy_of_the_log_alone(game: Pipeline, tmp_path: Path) -> None:
    """A log restored from a backup ends before the checkpoint: new events must not reuse landed offsets."""
    send(game, "a")
    game.log.close()  # type: ignore[attr-defined]
    shutil.copytree(game.project.log_folder, tmp_path / "backup")
    send(game, "b")
    with game.lander() as lander:
        lander.drain()
    game.log.close()  # type: ignore[attr-defined]
    shutil.rmtree(game.project.log_folder)
    shutil.copytree(tmp_path / "backup", game.project.log_folder)
    again = open_pipeline(tmp_path)
    send(again, "c")
    accept_loss(again)
    with again.lander() as lander:
        lander.drain()
    assert sorted(again.sql("select event_id from hit").rows()) == [("a",), ("b",), ("c",)]
