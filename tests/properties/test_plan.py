"""Any plan survives a round trip through its file, has one version per meaning, and accepts only values that fit."""

from __future__ import annotations

import datetime as dt
import json
import random
import tomllib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from questlog.plan import Event, Plan, Type
from questlog.plan.check import misfit
from questlog.plan.jsonschema import as_json, event_schema, plan_schema
from questlog.plan.lines import key_lines
from questlog.plan.load import check_plan, parse_plan, parse_type
from questlog.plan.render import render, toml
from questlog.plan.values import convert
from questlog.shape import validate
from questlog.types import DoesNotFit
from support.plan_strategies import TYPES, plans, values


@given(plans())
def test_a_rendered_plan_loads_as_the_same_plan(plan: Plan) -> None:
    text = render(plan)
    again, faults = check_plan(text)
    assert faults == []
    assert again == plan
    assert again.version == plan.version
    assert render(again) == text


@given(TYPES)
def test_the_text_of_a_type_parses_to_the_same_type(type_: Type) -> None:
    assert parse_type(str(type_)) == type_
    assert parse_type(str(type_).replace("<", " < ").replace(",", " , ").replace(":", " : ")) == type_


def shuffled(document: Any, chance: random.Random) -> Any:
    """Return the document with its keys in another order."""
    if not isinstance(document, dict):
        return document
    keys = list(document)
    chance.shuffle(keys)
    return {key: shuffled(document[key], chance) for key in keys}


def nested(document: dict[str, Any]) -> str:
    """Return the document as TOML in another style, with inline tables and comments."""
    return "".join(f"# {key}\n\n{toml(key)}   =  {toml(value)}  # {{\n" for key, value in document.items())


@given(plans().filter(lambda p: sum(bool(e.match) for e in p.events.values()) < 2), st.randoms(use_true_random=False))
def test_the_version_does_not_depend_on_order_comments_or_formatting(plan: Plan, chance: random.Random) -> None:
    document = shuffled(tomllib.loads(render(plan)), chance)
    assert parse_plan(nested(document)).version == plan.version


@given(plans(), plans())
def test_plans_share_a_version_only_if_they_mean_the_same(one: Plan, other: Plan) -> None:
    if one == other:
        assert one.version == other.version
    else:
        order = [[n for n, e in plan.events.items() if e.match] for plan in (one, other)]
        same_but_for_order = _sorted(one) == _sorted(other) and order[0] == order[1]
        assert (one.version == other.version) == same_but_for_order


def _sorted(plan: Plan) -> Any:
    events = {
        name: (e.table, e.mode, e.description, e.owner, dict(e.match), {f.name: f for f in e.fields})
        for name, e in plan.events.items()
    }
    return (plan.game, plan.description, plan.headers, plan.envelope, events, dict(plan.routes), plan.dedup_hours)


def paths(document: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    result = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        result.append((*above, key))
        if isinstance(value, dict | list):
            result += paths(value, (*above, key))
    return result


@given(plans())
def test_every_key_is_located_on_its_line(plan: Plan) -> None:
    document = tomllib.loads(render(plan))
    assert set(key_lines(nested(document))) == set(paths(document))
    text = render(plan)
    lines = key_lines(text)
    assert set(lines) == set(paths(document))
    for path, line in lines.items():
        keys = [part for part in path if isinstance(part, str)]
        written = text.split("\n")[line - 1]
        assert keys[-1] in written or toml(keys[-1]) in written


@given(st.data())
def test_a_value_the_plan_accepts_fits_its_column(data: st.DataObject) -> None:
    """A default is checked when the plan is loaded, so it cannot fail at the first event without the field."""
    type_ = data.draw(TYPES)
    fitting, foreign = data.draw(values(type_)), data.draw(TYPES.flatmap(values))
    assert misfit(type_, fitting) == ""
    convert(type_, fitting)
    if misfit(type_, foreign) == "":
        convert(type_, foreign)


@given(TYPES, TYPES.flatmap(values))
def test_a_value_that_its_column_refuses_is_refused_in_the_plan(type_: Type, value: Any) -> None:
    try:
        convert(type_, value)
    except DoesNotFit:
        assert misfit(type_, value)


FORMATS = FormatChecker(["date"])


@FORMATS.checks("date-time", raises=ValueError)
def is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(dt.datetime.fromisoformat(value))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.data())
def test_an_event_valid_by_the_json_schema_becomes_a_row(plan: Plan, data: st.DataObject) -> None:
    Draft202012Validator.check_schema(plan_schema(plan))
    for event in plan.events.values():
        raw = json.dumps(body_of(plan, event, data))
        schema = event_schema(plan, event.name)
        if Draft202012Validator(schema, format_checker=FORMATS).is_valid(json.loads(raw)):
            assert validate(raw.encode(), plan).reject is None


def body_of(plan: Plan, event: Event, data: st.DataObject) -> dict[str, Any]:
    """Return an event as a client may send it; most fit the plan."""
    fields = {
        field.name: as_json(data.draw(values(field.type) if data.draw(st.integers(0, 4)) else TYPES.flatmap(values)))
        for field in event.fields
        if data.draw(st.integers(0, 3))
    }
    body: dict[str, Any] = {}
    if not plan.envelope.fields:
        body = fields
    else:
        put(body, plan.envelope.fields, fields)
    for path, value in event.match or ((plan.envelope.event_type, event.name),):
        put(body, path, value)
    return body


def put(body: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for key in above:
        inner = body.get(key)
        result: dict[str, Any] = inner if isinstance(inner, dict) else {}
        body[key] = result
        body = result
    body[last] = value
