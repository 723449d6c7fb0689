"""For any events, the suggestion is a plan under which every event becomes a row that keeps every value."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from questlog.log import Entry
from questlog.plan.columns import QUARANTINE_TABLE
from questlog.plan.load import parse_plan
from questlog.plan.render import additions, extended
from questlog.record import encode_record
from questlog.shape import shape
from questlog.suggest import Suggester

PLAN = """
[events.buy]
[events.buy.fields]
item = "string" # what
[events.sell]
table = "buy"
"""
KEYS = st.sampled_from(["a", "b", "A", "item", "é", "x y", "camelCase", "host", "1", "a_2", "", "email"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "gold", "2026-01-01", "2026-01-01T10:00:00Z", "\x00", "\U0001f5e1"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(["buy", "sell", "Buy", "new", "New", "events", "buy_2", "a.b", "é", "x" * 90])


@given(st.lists(st.tuples(NAMES, st.dictionaries(KEYS, VALUES, max_size=4)), max_size=8))
def test_a_suggested_plan_accepts_every_event_and_keeps_every_value(sent: list[tuple[str, dict[str, Any]]]) -> None:
    raws = [json.dumps({"event_type": name, **body}).encode() for name, body in sent]
    suggester = Suggester(parse_plan(PLAN))
    for raw in raws:
        suggester.add(raw)
    suggested = suggester.finish()
    parse_plan(additions(suggested.fields, suggested.events, suggested.notes))
    whole = extended(PLAN, suggested.merged, suggested.fields, suggested.events, suggested.notes)
    plan = parse_plan(whole)
    assert plan == suggested.merged

    entries = [Entry(0, n, encode_record(raw, id=str(n), received_ms=n), n) for n, raw in enumerate(raws)]
    shaped = shape(entries, plan)
    refused = shaped.tables[QUARANTINE_TABLE].to_pylist() if shaped.count(QUARANTINE_TABLE) else []
    assert {(row["event_type"], row["field"]) for row in refused} <= {("buy", "item")}, "the plan declares text"
    for name, rows in shaped.tables.items():
        for row in rows.to_pylist() if name != QUARANTINE_TABLE else ():
            event = plan.events[row["event_type"]]
            left = set(json.loads(row["_rescued"] or "{}"))
            named = {
                reason.split(":")[0].split(".", 1)[1] for reason in suggested.left_out if reason.startswith(event.name)
            }
            assert left <= named, "only fields reported as left out remain"

    again = Suggester(plan)
    for raw in raws:
        again.add(raw)
    assert (again.finish().events, again.finish().fields) == ((), {})
