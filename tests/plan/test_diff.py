"""`plan diff` predicts what a change does to the tables, and the tables then change that way."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyiceberg.schema import Schema

from questlog.errors import PlanError
from questlog.lake.evolve import refuse_breaking
from questlog.lake.schema import evolve_schema
from questlog.plan import Plan
from questlog.plan.columns import table_schema
from questlog.plan.diff import diff_plans
from questlog.plan.load import parse_plan

OLD = """
[headers]
keep = ["Host"]
[routes]
"GET /" = "buy"
[events.buy.fields]
price = "int"
item = "string"
gone = "string"
where = "struct<x:int,y:int>"
sum = "decimal(5,2)"
[events.left]
"""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("", ""), []),
        (('"int"', '"long"'), [("widening", "events.buy.fields.price.type", "int -> long")]),
        (('"decimal(5,2)"', '"decimal(9,2)"'), [("widening", "events.buy.fields.sum.type", "-> decimal(9,2)")]),
        (('"decimal(5,2)"', '"decimal(9,3)"'), [("breaking", "events.buy.fields.sum.type", "-> decimal(9,3)")]),
        (('"int"', '"string"'), [("breaking", "events.buy.fields.price.type", "int -> string")]),
        (('item = "string"', 'item = "time"'), [("neutral", "events.buy.fields.item.type", "string -> time")]),
        (("y:int>", "y:int,z:int>"), [("widening", "events.buy.fields.where.type", "struct<x:int,y:int,z:int>")]),
        ((",y:int>", ">"), [("neutral", "events.buy.fields.where.type", "-> struct<x:int>")]),
        (('item = "string"', ""), [("neutral", "events.buy.fields.item", "field removed")]),
        (('item = "string"', 'item = "string"\nnew = "date"'), [("additive", "events.buy.fields.new", "new field")]),
        (
            ('price = "int"', 'cost = {type = "int", aliases = ["price"]}'),
            [
                ("additive", "events.buy.fields.cost", "renamed from price"),
                ("neutral", "events.buy.fields.cost.aliases", 'none -> ["price"]'),
            ],
        ),
        (
            ('price = "int"', 'cost = {type = "bool", aliases = ["price"]}'),
            [
                ("breaking", "events.buy.fields.cost.type", "int -> bool"),
                ("additive", "events.buy.fields.cost", "renamed from price"),
                ("neutral", "events.buy.fields.cost.aliases", 'none -> ["price"]'),
            ],
        ),
        (("[events.left]", "[events.come]\n[events.left]"), [("additive", "events.come", "new event")]),
        (("[events.left]", ""), [("neutral", "events.left", "event removed")]),
        (("[events.left]", '[events.left]\ntable = "l"'), [("additive", "events.left.table", "left -> l")]),
        (('["Host"]', '["Host", "Accept"]'), [("additive", "headers.keep", "new header Accept")]),
        (('["Host"]', "[]"), [("neutral", "headers.keep", "header Host removed")]),
        (('= "buy"', '= "left"'), [("neutral", 'routes."GET /"', "buy -> left")]),
        (("[headers]", "[game]\nname = 'x'\n[headers]"), [("neutral", "game.name", '"game" -> "x"')]),
        (
            ("[headers]", "[envelope]\nevent_time = 'ts'\n[headers]"),
            [("neutral", "envelope.event_time", '"event_time" -> "ts"')],
        ),
        (
            ('price = "int"', 'price = {type = "int", min = 0, description = "Cost."}'),
            [
                ("neutral", "events.buy.fields.price.min", "none -> 0"),
                ("neutral", "events.buy.fields.price.description", 'none -> "Cost."'),
            ],
        ),
        (
            ("[events.left]", '[events.left]\nmode = "reject"\nmatch = {k = 1}'),
            [
                ("neutral", "events.left.mode", '"quarantine" -> "reject"'),
                ("neutral", "events.left.match", "none -> { k = 1 }"),
            ],
        ),
        (
            ("[events.left]", "[events.left]\ntable = 'buy'\nfields.price = 'int'"),
            [("additive", "events.left.table", "left -> buy")],
        ),
    ],
)
def test_each_change_has_its_kind(change: tuple[str, str], expected: list[tuple[str, str, str]]) -> None:
    new = OLD.replace(*change) if change[0] else OLD
    assert new != OLD or not expected
    changes = diff_plans(parse_plan(OLD), parse_plan(new))
    assert [(c.kind, c.path) for c in changes] == [(kind, path) for kind, path, _ in expected]
    for change_, (_, _, what) in zip(changes, expected, strict=True):
        assert what in change_.what
        assert change_.effect


def test_a_column_taken_over_by_another_event_is_compared() -> None:
    old = parse_plan("[events.a]\ntable = 't'\nfields.x = 'string'")
    new = parse_plan("[events.b]\ntable = 't'\nfields.x = 'int'")
    assert [c.kind for c in diff_plans(old, new)] == ["breaking", "additive", "neutral"]


def test_a_field_in_a_headers_column_is_compared() -> None:
    new = OLD.replace('["Host"]', "[]").replace('item = "string"', 'item = "string"\nhost = "int"')
    changes = diff_plans(parse_plan(OLD), parse_plan(new))
    assert ("breaking", "events.buy.fields.host.type") in [(c.kind, c.path) for c in changes]


def test_the_order_of_matched_events_is_a_change() -> None:
    a, b = "[events.a]\nmatch = {k = 1}\n", "[events.b]\nmatch = {l = 1}\n"
    (changes,) = diff_plans(parse_plan(a + b), parse_plan(b + a))
    assert (changes.kind, changes.path, changes.what) == ("neutral", "events", "order b, a")


_TYPES = st.sampled_from(
    ["int", "long", "string", "decimal(5,2)", "decimal(9,2)", "decimal(9,3)", "list<int>", "list<long>", 
     "struct<a:int>", "struct<a:long,b:int>", "struct<b:int>", "map<string,int>", "map<string,double>"]
)  # fmt: skip


@st.composite
def small_plans(draw: st.DrawFn) -> Plan:
    """Return plans from a small set of names, so that two of them often collide."""
    header = draw(st.sampled_from(["", "[headers]\nkeep = ['a']\n"]))
    lines = [header]
    for event in draw(st.sampled_from(["x", "x", "xy"])):
        table = draw(st.sampled_from([event, event, "x"]))
        lines.append(f"[events.{event}]\ntable = '{table}'\n")
        for name in draw(st.sampled_from(["ab", "abc", "b", "c", "bc"])):
            alias = draw(st.sampled_from(["", "", "", "c", "d"]))
            aliases = f", aliases = ['{alias}']" if alias else ""
            lines.append(f"fields.{name} = {{type = '{draw(_TYPES)}'{aliases}}}\n")
    try:
        return parse_plan("".join(lines))
    except PlanError:
        return parse_plan(f"{header}[events.x.fields]\nb = '{draw(_TYPES)}'\n")


def is_refused(old: Plan, new: Plan) -> bool:
    """Return whether tables made under *old* refuse *new*."""
    catalog = sqlite3.connect(":memory:")
    catalog.execute("create table questlog_plans (version)")
    catalog.execute("create table questlog_tables (name, schema)")
    for table in old.tables:
        schema = evolve_schema(Schema(), table_schema(old, table), 0).schema
        catalog.execute("insert into questlog_tables values (?, ?)", (table, schema.model_dump_json()))
    try:
        refuse_breaking(new, catalog)
    except PlanError:
        return True
    return False


@given(small_plans(), small_plans())
def test_breaking_changes_are_those_that_tables_refuse(old: Plan, new: Plan) -> None:
    assert any(c.kind == "breaking" for c in diff_plans(old, new)) == is_refused(old, new)


@given(small_plans(), small_plans())
def test_plans_without_differences_have_one_version(old: Plan, new: Plan) -> None:
    assert (diff_plans(old, new) == []) == (old.version == new.version)


def questlog(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "questlog", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)


def test_the_command_exits_with_1_if_a_change_is_breaking(tmp_path: Path) -> None:
    old, new = tmp_path / "old.toml", tmp_path / "plan.toml"
    old.write_text("[events.hit.fields]\nby = 'int'\n")
    new.write_text("[events.hit.fields]\nby = 'long'\n")
    versions = [parse_plan(path.read_text()).version for path in (old, new)]
    ran = questlog("plan", "diff", old, new)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == (
        "widening  events.hit.fields.by.type: int -> long\n"
        "          column by of table hit is widened at the next landing; every existing value stays\n"
        f"{versions[0]} -> {versions[1]}: 1 widening\n"
    )
    backwards = questlog("plan", "diff", new, "-", "--json", text=old.read_text())
    assert backwards.returncode == 1
    report: dict[str, Any] = json.loads(backwards.stdout)
    assert (report["breaking"], report["changes"][0]["kind"]) == (1, "breaking")
    assert "add a field with a new name, e.g. by_int" in report["changes"][0]["effect"]
    own = questlog("-C", tmp_path, "plan", "diff", "-", text=new.read_text())
    assert own.stdout == f"{versions[1]} -> {versions[1]}: no difference\n"
