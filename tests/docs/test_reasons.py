"""Every reason code has a section, and the example in each section yields that reason."""

import re

import pytest

from questlog.errors import Reason
from questlog.log import Entry, Gap
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.load import parse_plan
from questlog.record import encode_record
from questlog.shape import Shaped, shape
from support.paths import ROOT

PAGE = (ROOT / "docs" / "reference" / "reasons.md").read_text("utf-8")
HEAD, *REST = re.split(r"^## `(\w+)`$", PAGE, flags=re.M)
SECTIONS = dict(zip(REST[::2], REST[1::2], strict=True))
PLAN = parse_plan(re.findall(r"^```toml\n(.*?)^```$", HEAD, re.S | re.M)[0])


def examples(text: str) -> list[str]:
    return re.findall(r"^```json\n(.*?)\n```$", text, re.S | re.M)


def shaped(*events: str, gaps: tuple[Gap, ...] = ()) -> Shaped:
    """Return the result of shaping *events*, recorded as the collector records bytes that may not be JSON."""
    records = [encode_record(e.encode(), id=f"id-{i}", received_ms=1, is_json=False) for i, e in enumerate(events)]
    return shape([Entry(0, i, record, 1) for i, record in enumerate(records)], PLAN, gaps=gaps)


def test_the_page_lists_every_reason_in_order() -> None:
    assert list(SECTIONS) == [reason.value for reason in Reason]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.LOG_DAMAGED])
def test_each_example_yields_its_reason(reason: Reason) -> None:
    (example,) = examples(SECTIONS[reason.value])
    batch = shaped(example)
    assert batch.tables[QUARANTINE_TABLE].column("reason").to_pylist() == [reason.value]
    assert "What to do: " in SECTIONS[reason.value]


def test_a_damaged_range_of_the_log_is_one_row() -> None:
    row = shaped(gaps=(Gap(0, 3, 9, "torn", 1),)).tables[QUARANTINE_TABLE].to_pylist()[0]
    assert (row["reason"], row["record"]) == (Reason.LOG_DAMAGED.value, None)
    assert "3 to 8" in row["detail"]


def test_the_first_examples_have_the_outcomes_the_page_describes() -> None:
    (lines,) = examples(HEAD)
    batch = shaped(*lines.splitlines())
    assert batch.count("purchase_sword") == 1
    assert batch.tables[QUARANTINE_TABLE].column("reason").to_pylist() == ["wrong_type", "unknown_event_type"]
    assert batch.tables[QUARANTINE_TABLE].column("field").to_pylist() == ["gems[1]", "event_type"]
    (level,) = batch.tables["begin_level"].to_pylist()
    assert (level["level"], level["_rescued"]) == (None, '{"level":"two"}')
