"""Invalid settings of the query engine block the tables, and nothing else that is reported."""

from pathlib import Path

import pytest

from questlog.pipeline import ClusterPipeline, open_pipeline
from questlog.report import Blocked, TopicCounts, cluster, preflight

TOML = """
profile = "cluster"
[presto]
url = "http://player:hunter2@127.0.0.1:1"
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> ClusterPipeline:
    (tmp_path / "plan.toml").write_text("[events.step.fields]\nn = 'int'\n")
    (tmp_path / "questlog.toml").write_text(TOML)
    opened = open_pipeline(tmp_path)
    assert isinstance(opened, ClusterPipeline)
    return opened


def test_the_spool_and_the_topic_are_still_reported(pipeline: ClusterPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = TopicCounts(5, 2, 0.5, {0: 5})
    monkeypatch.setattr(cluster, "_topic", lambda settings: topic)
    report = pipeline.report()
    assert (report.spool.waiting, report.topic) == (0, topic)
    assert isinstance(report.lake, Blocked)
    assert "is not a valid address" in report.lake.text and "hunter2" not in report.lake.text
    assert "http://HOST:PORT" in report.lake.hint


def test_the_preflight_check_names_it_beside_the_other_requirements(
    pipeline: ClusterPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_kafka", lambda settings: preflight.Requirement("kafka", True, "answers"))
    found = {each.name: each for each in preflight.preflight(pipeline.project, pipeline.project.settings,
                                                             lambda: pipeline.engine)}  # fmt: skip
    assert not found["presto"].met
    assert "is not a valid address" in found["presto"].text
    assert found["kafka"].met
