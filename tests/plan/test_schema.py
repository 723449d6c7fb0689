"""`plan schema` describes in JSON Schema what `shape` accepts: a valid event becomes a row."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from questlog.plan import Plan
from questlog.plan.jsonschema import event_schema, plan_schema
from questlog.plan.load import parse_plan
from questlog.shape import validate

PLAN = parse_plan("""
[game]
name = "castle"
description = "Of stone."

[events.buy]
description = "Bought."
[events.buy.fields]
item = { type = "string", required = true, max_length = 5, pattern = "^[a-z]", description = "What." }
price = { type = "decimal(5,2)", min = 1, max = 100.5 }
coin = { enum = ["gold", "usd"], default = "gold", required = true, deprecated = true }
n = { type = "int", min = -5, required = true, aliases = ["count"] }
big = "long"
rate = { type = "double", max = 2 }
low = "float"
on = "bool"
day = "date"
at = { type = "timestamp", default = 2026-01-01T00:00:00 }
tags = { type = "list<string>", max_length = 2 }
by = "map<string,int>"
where = "struct<x:int,y:list<double>>"

[events.win]
match = { kind = "W", "data.won" = true }
""")

BUY: dict[str, Any] = {"event_type": "buy", "item": "axe", "n": 1}
VALID = [
    {},
    {"price": 1.5, "coin": "usd", "big": 2**62, "rate": -1e9, "low": 3, "on": False},
    {"price": "100.25", "coin": None, "n": None, "count": 7, "unknown": [1]},
    {"day": "2026-02-28", "at": "2026-02-28T10:00:00Z", "event_time": 1790000000000, "event_id": "x" * 200},
    {"at": 1790000000000, "tags": ["a", None], "by": {"a": 1, "b": None}, "where": {"x": None, "y": [1, 2.5]}},
    {"player_id": 5, "session_id": "s", "sequence": 9, "where": None, "tags": []},
]
INVALID = [
    {"event_type": "sell"}, {"item": None}, {"item": "longer"}, {"item": "X"}, {"item": 5}, {"price": 0.5},
    {"price": 101}, {"price": 10**6}, {"price": "x"}, {"price": "1.005"}, {"coin": "yen"}, {"n": None}, {"n": -6},
    {"n": 2**31}, {"n": 1.5}, {"n": True}, {"count": "x", "n": None}, {"big": 2**63}, {"rate": 3}, {"rate": "1"},
    {"low": 1e39}, {"on": 1}, {"day": "2026-02-30"}, {"day": 5}, {"at": "soon"}, {"at": True},
    {"tags": "a"}, {"tags": ["a", "b", "c"]}, {"tags": [1]}, {"by": {"a": "b"}},
    {"by": [1]}, {"where": {"z": 1}}, {"where": {"x": "1"}},
    {"event_time": "soon"}, {"player_id": [1]}, {"sequence": "1"},
]  # fmt: skip


def is_row(plan: Plan, body: object) -> bool:
    return validate(json.dumps(body).encode(), plan).reject is None


def is_valid(schema: dict[str, Any], body: object) -> bool:
    Draft202012Validator.check_schema(schema)
    return bool(Draft202012Validator(schema, format_checker=FormatChecker(["date"])).is_valid(body))


@pytest.mark.parametrize("change", VALID)
def test_a_valid_event_becomes_a_row(change: dict[str, Any]) -> None:
    body = {**BUY, **change}
    assert is_valid(event_schema(PLAN, "buy"), body)
    assert is_valid(plan_schema(PLAN), body)
    assert is_row(PLAN, body)


@pytest.mark.parametrize("change", INVALID)
def test_an_event_that_is_no_row_is_invalid(change: dict[str, Any]) -> None:
    body = {**BUY, **change}
    assert not is_row(PLAN, body)
    if change != {"at": "soon"} and change != {"event_time": "soon"}:  # few validators check the formats of times
        assert not is_valid(event_schema(PLAN, "buy"), body)
        assert not is_valid(plan_schema(PLAN), body)


def test_an_event_with_a_match_requires_its_members() -> None:
    schema = event_schema(PLAN, "win")
    for body, expected in [
        ({"kind": "W", "data": {"won": True, "more": 1}}, True),
        ({"kind": "W", "data": {"won": 1}}, False),
        ({"kind": "W", "data": None}, False),
        ({"kind": "W"}, False),
        ({"event_type": "win"}, False),
    ]:
        assert is_valid(schema, body) == is_row(PLAN, body) == expected
        assert is_valid(plan_schema(PLAN), body) == expected


def test_fields_and_envelope_are_at_the_plans_paths() -> None:
    plan = parse_plan("""
        [envelope]
        event_type = "meta.kind"
        player_id = "data.who"
        fields = "data"
        [events.hit.fields]
        by = { type = "int", required = true }
        who = "string"
        """)
    schema = event_schema(plan, "hit")
    for body, expected in [
        ({"meta": {"kind": "hit"}, "data": {"by": 1, "who": "ann"}}, True),
        ({"meta": {"kind": "hit"}, "data": {"by": 1, "who": 5}}, False),
        ({"meta": {"kind": "hit"}, "data": {"who": "ann"}}, False),
        ({"meta": {"kind": "hit"}, "by": 1}, False),
        ({"meta": {"kind": "hot"}, "data": {"by": 1}}, False),
    ]:
        assert is_valid(schema, body) == is_row(plan, body) == expected


def test_descriptions_defaults_and_flags_are_in_the_schema() -> None:
    schema = event_schema(PLAN, "buy")
    assert (schema["$schema"], schema["title"]) == ("https://json-schema.org/draft/2020-12/schema", "buy")
    assert schema["description"] == "Bought."
    assert schema["properties"]["item"]["description"] == "What."
    assert schema["properties"]["coin"]["default"] == "gold"
    assert schema["properties"]["coin"]["deprecated"] is True
    assert schema["properties"]["at"]["default"] == "2026-01-01T00:00:00Z"
    assert schema["required"] == ["event_type", "item"]
    whole = plan_schema(PLAN)
    assert (whole["title"], whole["description"]) == ("castle", "Of stone.")


def test_without_events_nothing_is_valid() -> None:
    assert not is_valid(plan_schema(parse_plan("")), {})


def questlog(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "questlog", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)


def test_the_command_prints_one_event_or_all(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[events.hit.fields]\nby = 'int'\n")
    one = questlog("-C", tmp_path, "plan", "schema", "hit")
    plan = parse_plan((tmp_path / "plan.toml").read_text())
    assert json.loads(one.stdout) == event_schema(plan, "hit")
    assert json.loads(questlog("-C", tmp_path, "plan", "schema").stdout) == plan_schema(plan)
    wrong = questlog("-C", tmp_path, "plan", "schema", "hitt")
    assert wrong.returncode == 2
    assert "event 'hitt' is not in the plan; did you mean 'hit'?" in wrong.stderr


SHOWN = """\
castle: 2 events, 2 fields, version {version}
headers kept: Host, Accept, User-Agent

buy -> table purchases, else quarantined
  Bought.
  owner: shop
  recorded by: POST /shop
  field  type    options                                    description
  -----  ------  -----------------------------------------  -----------
  item   string  required, enum = ["axe"], aliases = ["i"]  What.
  n      int     min = 0

win -> table win, keeps what fits
  matched by: kind = 'W'
"""


def test_show_prints_events_and_fields() -> None:
    text = """
        [game]
        name = "castle"
        [routes]
        "POST /shop" = "buy"
        [events.buy]
        description = "Bought."
        owner = "shop"
        table = "purchases"
        fields.item = { enum = ["axe"], required = true, description = "What.", aliases = ["i"] }
        fields.n = { type = "int", min = 0 }
        [events.win]
        mode = "observe"
        match = { kind = "W" }
        """
    shown = questlog("plan", "show", "-f", "-", text=text).stdout
    assert shown == SHOWN.format(version=parse_plan(text).version)
    assert questlog("plan", "show", "win", "-f", "-", text=text).stdout == SHOWN[SHOWN.index("win ->") :]
    document = json.loads(questlog("plan", "show", "--json", "-f", "-", text=text).stdout)
    assert document["events"]["buy"]["fields"]["n"] == {"type": "int", "min": 0}
    assert document["events"]["buy"]["table"] == "purchases"
    assert document["events"]["win"]["match"] == {"kind": "W"}
    assert document["routes"] == {"POST /shop": "buy"}
