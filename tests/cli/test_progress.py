"""Long work reports its progress."""

import itertools
import time
from pathlib import Path

import pytest

from questlog.cli.progress import counting
from questlog.pipeline import open_pipeline
from questlog.record import encode_record


def test_a_drain_reports_progress_after_each_batch(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[events.hit]\n")
    pipeline = open_pipeline(tmp_path, batch_records=10)
    for start in range(0, 30, 10):
        hit = b'{"event_type": "hit"}'
        pipeline.log.append([encode_record(hit, id=f"e{start + n}", received_ms=1) for n in range(10)])
    progress: list[tuple[int, int]] = []
    with pipeline.lander() as lander:
        lander.drain(shown=lambda landed, total: progress.append((landed, total)))
    assert progress == [(10, 30), (20, 30), (30, 30)]


def test_without_a_terminal_progress_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = itertools.count(step=4)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with counting("landing") as show:
        for done in (10, 20, 30, 40):
            show(done, done, 40)
    assert capsys.readouterr().err == "landing: 30 events, 75 %\n"
