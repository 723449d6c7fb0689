"""Every row of `questlog.types.SCALARS` works in every stage and engine: add values to support/type_samples.py."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pyarrow as pa
import pytest
import sqlglot
from sqlglot import expressions

from questlog.accept import accept
from questlog.export.folder import FolderExport
from questlog.pipeline import Pipeline, open_pipeline
from questlog.plan.check import misfit
from questlog.plan.columns import arrow_type
from questlog.plan.ddl import create_statements
from questlog.plan.evolve import column_change
from questlog.plan.jsonschema import event_schema, plan_schema
from questlog.plan.load import parse_plan
from questlog.query.presto.types import arrow_table, parse_type, plan_type
from questlog.query.views import sql_type
from questlog.types import SCALARS, Type, from_text
from support.type_samples import SAMPLES, Sample

DECLARABLE = sorted(name for name, row in SCALARS.items() if row.is_declarable)
NOW_MS = 1_790_000_000_000
COPIES = 30
"""Of each event: enough for a batch that takes the fast path."""
FIELDS = "value, fallback, many, by_name, inside, deep"
every_type = pytest.mark.parametrize("name", DECLARABLE)


def test_every_type_has_sample_values() -> None:
    assert sorted(SAMPLES) == DECLARABLE
    assert [name for name in DECLARABLE if SCALARS[name].is_ordered] == sorted(n for n, s in SAMPLES.items() if s.below)


def plan_of(name: str) -> str:
    default = SAMPLES[name].default
    fields = f"""
value = "{name}"
fallback = {{ type = "{name}", default = {default} }}
many = "list<{name}>"
by_name = "map<string,{name}>"
inside = "struct<x:{name}>"
deep = "list<struct<x:{name}>>"
"""
    bounded = f'value = {{ type = "{name}", min = {default} }}' if SCALARS[name].is_ordered else ""
    return f"""
[events.hit.fields]{fields}
[events.strict]
mode = "reject"
[events.strict.fields]{fields}
[events.bounded.fields]
{bounded}
"""


def fitting(json_text: str, event: str = "hit") -> bytes:
    members = {"value": "{0}", "many": "[{0}, null]", "by_name": '{{"k": {0}}}', "inside": '{{"x": {0}}}'}
    members["deep"] = '[{{"x": {0}}}]'
    return (
        f'{{"event_type": "{event}", '.encode()
        + ", ".join(f'"{key}": {value.format(json_text)}' for key, value in members.items()).encode()
        + b"}"
    )


def misfitting(json_text: str, event: str = "hit") -> bytes:
    return f'{{"event_type": "{event}", "value": {json_text}}}'.encode()


def rows_of(sample: Sample) -> list[tuple[Any, ...]]:
    first = next(iter(sample.fits.values()))
    return [(v, first, [v, None], {"k": v}, {"x": v}, [{"x": v}]) for v in sample.fits.values()]


@pytest.fixture
def pipeline(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pipeline]:
    """Open a project whose plan has fields of the type under test."""
    (tmp_path / "plan.toml").write_text(plan_of(request.getfixturevalue("name")))
    with open_pipeline(tmp_path) as opened:
        yield opened
        opened.log.close()


def send(pipeline: Pipeline, events: list[bytes], *outcomes: str) -> None:
    accepted = accept(events, pipeline.plan, received_ms=NOW_MS)
    assert {receipt.outcome for receipt in accepted.receipts} == set(outcomes or ("accepted",))
    pipeline.log.append(accepted.records)


def land(pipeline: Pipeline) -> None:
    with pipeline.lander() as lander:
        lander.drain()


def ask(pipeline: Pipeline, question: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    result = pipeline.sql(question)
    return result.types, result.rows()


@every_type
def test_values_are_the_same_in_the_tail_and_in_the_tables(pipeline: Pipeline, name: str) -> None:
    """One event at a time on the scalar path, then many on the fast path; then an export of both."""
    sample = SAMPLES[name]
    question = f"select distinct {FIELDS} from hit order by all"
    send(pipeline, [fitting(text) for text in sample.fits])
    tail = ask(pipeline, question)
    send(pipeline, [fitting(text) for text in sample.fits] * COPIES)
    assert ask(pipeline, question) == tail
    land(pipeline)
    assert ask(pipeline, question) == tail
    assert sorted(map(repr, tail[1])) == sorted({repr(row) for row in rows_of(sample)})
    assert pipeline.sql("select count(*) from hit").rows() == [(len(sample.fits) * (COPIES + 1),)]
    assert pipeline.sql("select count(*) from quarantine").rows() == [(0,)]

    folder = pipeline.project.root / "out"
    FolderExport(pipeline.engine, folder).run(["hit"], threading.Event(), lambda *_: None)
    exported = duckdb.sql(f"select distinct {FIELDS} from read_parquet('{folder}/hit/*/*.parquet') order by all")
    assert exported.fetchall() == tail[1]


@every_type
def test_values_that_do_not_fit_are_quarantined_with_their_reason(pipeline: Pipeline, name: str) -> None:
    question = "select reason, field, count(*) from quarantine group by all order by all"
    bad = [misfitting(text) for text in SAMPLES[name].misfits]
    send(pipeline, bad, "quarantined")
    tail = pipeline.sql(question).rows()
    assert sum(count for _, _, count in tail) == len(bad)
    assert {(reason, field) for reason, field, _ in tail} <= {("wrong_type", "value"), ("out_of_range", "value")}
    land(pipeline)
    send(pipeline, bad * COPIES, "quarantined")
    land(pipeline)
    landed = [(reason, field, count * (COPIES + 1)) for reason, field, count in tail]
    assert pipeline.sql(question).rows() == landed
    assert pipeline.sql("select count(*) from hit").rows() == [(0,)]


@every_type
def test_a_strict_event_is_accepted_or_rejected(pipeline: Pipeline, name: str) -> None:
    for texts, make, outcome in (
        (SAMPLES[name].fits, fitting, "accepted"),
        (SAMPLES[name].misfits, misfitting, "rejected"),
    ):
        events = [make(text, "strict") for text in texts]
        receipts = accept(events, pipeline.plan, received_ms=NOW_MS).receipts
        assert [receipt.outcome for receipt in receipts] == [outcome] * len(events)


@every_type
def test_bounds_are_enforced(pipeline: Pipeline, name: str) -> None:
    sample = SAMPLES[name]
    if not SCALARS[name].is_ordered:
        with pytest.raises(Exception, match="is for numbers"):
            parse_plan(f'[events.a.fields]\nx = {{ type = "{name}", min = {sample.default} }}')
        return
    for copies in (1, COPIES * 3):
        send(
            pipeline,
            [misfitting(next(iter(sample.fits)), "bounded"), misfitting(sample.below, "bounded")] * copies,
            "accepted",
            "quarantined",
        )
        land(pipeline)
    assert pipeline.sql("select count(*) from bounded").rows() == [(COPIES * 3 + 1,)]
    assert pipeline.sql("select reason, count(*) from quarantine group by all").rows() == [
        ("out_of_range", COPIES * 3 + 1)
    ]


@every_type
def test_a_column_widens_in_place_or_not_at_all(pipeline: Pipeline, name: str) -> None:
    row = SCALARS[name]
    for other in DECLARABLE:
        shared, wider = SCALARS[other].iceberg == row.iceberg, other in row.wider
        expected = "same" if shared else "widening" if wider else "breaking"
        assert column_change(Type(name), Type(other)) == expected
    text, value = next(iter(SAMPLES[name].fits.items()))
    send(pipeline, [misfitting(text)])
    land(pipeline)
    for wider in row.wider:
        (pipeline.project.root / "plan.toml").write_text(plan_of(wider))
        with open_pipeline(pipeline.project.root) as later:
            send(later, [misfitting(text)])
            assert later.sql("select value from hit").rows() == [(value,), (value,)]
            land(later)
            assert later.sql("select value from hit").rows() == [(value,), (value,)]
            assert [t.lower() for t in later.sql("select value from hit").types] == [sql_type(Type(wider))]
            later.log.close()


@every_type
def test_create_statements_name_the_type_in_every_dialect(name: str) -> None:
    plan, row = parse_plan(plan_of(name)), SCALARS[name]
    for dialect, column in (("duckdb", row.duckdb), ("spark", row.spark), ("presto", row.presto)):
        statement = next(create_statements(plan, dialect))
        parsed = sqlglot.parse_one(statement, dialect=dialect)
        columns = {each.name: each.args["kind"] for each in parsed.find_all(expressions.ColumnDef)}
        assert columns["value"] == expressions.DataType.build(column, dialect=dialect)
    with duckdb.connect() as connection:
        for statement in create_statements(plan, "duckdb"):
            connection.execute(statement)
        types = {column: type_ for column, type_, *_ in connection.execute("describe hit").fetchall()}
    assert types["value"].lower() == sql_type(Type(name))


@every_type
def test_the_json_schema_accepts_values_that_fit(name: str) -> None:
    plan = parse_plan(plan_of(name))
    jsonschema.Draft202012Validator.check_schema(plan_schema(plan))
    validator = jsonschema.Draft202012Validator(event_schema(plan, "hit"))
    for text in SAMPLES[name].fits:
        assert list(validator.iter_errors(json.loads(fitting(text)))) == []
    assert not validator.is_valid({"event_type": "hit", "value": {"not": "a scalar"}})
    default = validator.schema["properties"]["fallback"]["default"]
    assert misfit(Type(name), default) == ""
    assert json.dumps(default)


@every_type
def test_presto_answers_become_the_same_values(name: str) -> None:
    sample, text = SAMPLES[name], SCALARS[name].presto.lower()
    wrapped = f"array(row(x {text}))"
    table = arrow_table([("v", text), ("deep", wrapped)], [[sample.presto, [[sample.presto]]], [None, None]])
    value = next(iter(sample.fits.values()))
    assert table.column(0).to_pylist() == [value, None]
    assert table.column(1).to_pylist() == [[{"x": value}], None]
    assert table.schema.field(0).type == arrow_type(Type(name)) == pa.type_for_alias(SCALARS[name].arrow)
    assert column_change(plan_type(parse_type(text)), Type(name)) == "same"


@every_type
def test_the_text_of_a_form_becomes_the_value_or_stays_text(name: str) -> None:
    for text in SAMPLES[name].fits:
        sent = json.loads(text)
        if not isinstance(sent, str | float):
            assert from_text(text, Type(name)) in (sent, text)
        assert from_text("odd text", Type(name)) == "odd text"


@pytest.mark.parametrize("name", ["string"])
def test_bytes_of_quarantine_are_the_record(pipeline: Pipeline, name: str) -> None:
    """`binary` is the one type that a plan cannot name."""
    assert [row.name for row in SCALARS.values() if not row.is_declarable] == ["binary"]
    send(pipeline, [misfitting("5")], "quarantined")
    records = [entry.value for entry in pipeline.log.read({}, 10, 1 << 20).entries]
    tail = ask(pipeline, "select record from quarantine")
    assert tail[1] == [(record,) for record in records]
    land(pipeline)
    assert ask(pipeline, "select record from quarantine") == tail
