"""The embedded engine refuses every statement that is not known to be read-only. No statement changes a file."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from questlog.errors import QueryError
from questlog.pipeline import Pipeline, open_pipeline
from questlog.query.text import split_statements, tokens
from questlog.record import encode_record, new_id

PLAN = """
[events.purchase]
table = "purchases"
[events.purchase.fields]
item = "string"

[events.join_guild.fields]
guild = "string"
"""
PURCHASE = b'{"event_type": "purchase", "item": "sword"}'
GUILD = b'{"event_type": "join_guild", "guild": "wolves"}'


@pytest.fixture
def game(tmp_path: Path) -> Iterator[Pipeline]:
    """A project with landed purchases, and one purchase in the tail."""
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path, land_seconds=0.05, query_seconds=20)
    send(pipeline, PURCHASE, GUILD, PURCHASE)
    with pipeline.lander() as lander:
        lander.drain()
    send(pipeline, PURCHASE)
    yield pipeline
    pipeline.close()
    pipeline.log.close()  # type: ignore[attr-defined]


def send(game: Pipeline, *bodies: bytes) -> None:
    now = time.time_ns() // 1_000_000
    game.log.append([encode_record(body, id=new_id(), received_ms=now, headers={"Host": "h"}) for body in bodies])


def digests(folder: Path) -> dict[str, str]:
    """Return every file's digest; SQLite's shared memory aside, which readers use."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def assert_harmless(game: Pipeline, statements: list[str], *, may_answer: bool = False) -> None:
    """Run every statement: each is refused with a sentence, and the project's files stay as they are.

    With *may_answer* a statement may also be answered, if it changes nothing.
    """
    before = digests(game.project.root)
    answered = []
    for statement in statements:
        try:
            rows = game.sql(statement).rows()
        except QueryError as refused:
            assert str(refused)
            continue
        answered.append((statement, rows))
        assert digests(game.project.root) == before, statement
    assert digests(game.project.root) == before
    assert may_answer or answered == []
    assert game.sql("select count(*), max(item) from purchases").rows() == [(3, "sword")]


ESCAPES = [
    "insert into purchases values (1)", "update purchases set item = 'x'", "delete from purchases",
    "drop table purchases", "drop view purchases", "create table t as select 1", "create view v as select 1",
    "create or replace temp view purchases as select 1", "alter table purchases add column x int",
    "truncate purchases", "merge into purchases using purchases p on true when matched then delete",
    "copy purchases to '{lake}/x.csv'", "copy (select 1) to '/tmp/questlog-escape.csv'",
    "copy purchases from '/etc/passwd'", "explain analyze copy (select 1) to '{lake}/x.csv'",
    "attach '{lake}/x.db' as x", "attach ':memory:' as x", "detach memory", "use memory",
    "install httpfs", "load httpfs", "export database '{lake}/x'", "import database '{lake}/x'",
    "set memory_limit = '1TB'", "set enable_external_access = true", "reset memory_limit",
    "pragma database_list", "pragma enable_profiling", "call pragma_version()", "checkpoint", "vacuum",
    "begin", "commit", "rollback", "prepare p as select 1", "execute p", "deallocate p",
    "select * from read_csv('/etc/passwd')", "select * from '/etc/passwd'", "select * from \"/etc/passwd\"",
    "select * from read_text('/etc/passwd')", "select * from read_blob('/etc/*')", "select * from glob('/etc/*')",
    "select * from read_parquet('{lake}/questlog/**/*.parquet')", "select * from parquet_metadata('{lake}/x')",
    "select * from sniff_csv('/etc/passwd')", "select getenv('HOME')", "select * from duckdb_secrets()",
    "select * from duckdb_settings()", "select * from query('drop table purchases')",
    "select * from query_table('purchases')", "with x as (select 1) insert into purchases select * from x",
    "select 1; drop table purchases", "select 1 -- \n; copy (select 1) to '{lake}/x.csv'",
    "/* select */ copy (select 1) to '{lake}/x.csv'", "comment on table purchases is 'x'",
    "pivot read_csv('/etc/passwd') on column0 using count(*)", "pivot '/etc/passwd.csv' on a using count(*)",
    "select nextval('x')", "create sequence s", "create macro m() as 1", "create type t as enum ('a')",
    "create secret (type s3)", "describe select * from read_csv('/etc/passwd')",
    "show create table '/etc/passwd'", "summarize '/etc/passwd.csv'", "select * from pragma_storage_info('purchases')",
    "from read_csv_auto('/etc/passwd')", "select (select count(*) from read_text('/etc/passwd'))",
    "select * from purchases where item in (select content from read_text('/etc/passwd'))",
    "values ((select content from read_text('/etc/passwd')))", "explain select * from read_text('/etc/passwd')",
    "select * from purchases order by (select content from read_text('/etc/passwd'))",
    "select list_transform([1], lambda x: (select content from read_text('/etc/passwd')))",
]  # fmt: skip


def test_only_statements_that_read_are_accepted(game: Pipeline) -> None:
    assert_harmless(game, [escape.format(lake=game.project.warehouse) for escape in ESCAPES])
    assert not Path("/tmp/questlog-escape.csv").exists()


# Each could hide a statement: from the patterns the guard once had, or from a tokenizer that differs from DuckDB's.
WRAPPERS = [
    "{write}",
    "({write})",
    "with z as ({write}) select 1 as a",
    "with z as materialized ({write}) from z",
    "with recursive z as ({write}) select 1",
    "select * from ({write})",
    "select ({write})",
    "select exists({write})",
    "select 1 union all ({write})",
    "describe {write}",
    "summarize {write}",
    "explain {write}",
    "explain analyze {write}",
    "explain (analyze, format json) {write}",
    "explain analyze with z as ({write}) select 1",
    "explain analyze /* /* */ select 1 -- */ {write}",
    "explain analyze /* /* */ */ {write} -- */ select 1",
    "explain analyze -- \r {write} --\n select 1",
    "explain analyze /* '*/ {write} --' */ select 1",
    "explain analyze $$ $$ {write}",
    "pivot ({write}) on a using count(*)",
    "pivot (select 1 as a) on a in ({write}) using count(*)",
    "with z as ({write}) pivot (select 1 as a) on a using count(*)",
    """with "'" as (select 1), z as ({write}), "'x" as (select 1) pivot (select 1 as a) on a using count(*)""",
    """with "$$" as (select 1), z as ({write}), "$$x" as (select 1) pivot (select 1 as a) on a using count(*)""",
    """with "/*" as (select 1), z as ({write}), "*/" as (select 1) pivot (select 1 as a) on a using count(*)""",
    """with "--" as (select 1), z as ({write}) pivot (select 1 as a) on a using count(*)""",
    """with `'` as (select 1), z as ({write}), `'x` as (select 1) pivot (select 1 as a) on a using count(*)""",
    """with "a""'" as (select 1), z as ({write}), "'b" as (select 1) pivot (select 1 as a) on a using count(*)""",
    r"""with y as (select E'\''), z as ({write}), x as (select E'\'') pivot (select 1 as a) on a using count(*)""",
    """with y as (select 1 as U&"'"), z as ({write}), x as (select 1 as "'") select * from (pivot y on a)""",
    """with y as (select $a$'$a$), z as ({write}), x as (select $a$'$a$) pivot (select 1 as a) on a using count(*)""",
    "unpivot ({write}) on a into name n value v",
    "unpivot (select 1 as a) on columns(*) into name n value v; {write}",
    "select 1; {write}",
    r"select E'\'; {write}; --'",
    "select $a$ $b$ $a$; {write}; select $a$ $b$ $a$",
    "select a$b$ from (select 1 as a$b$); {write}; select 1 as a$b$",
    "select 1 /* /* */ ; {write}; /* */",
    r"select U&'\0027'; {write}; --'",
    "from (values (1)) t(a) select a; {write}",
    "prepare p as {write}",
    "create macro m() as table ({write})",
]
WRITES = [
    "copy (select 'pwned' as item) to '{file}' (format parquet)",
    "copy (select 'pwned' as item) to (translate($${hidden}$$, $$|~$$, concat(chr(47), chr(46)))) (format parquet)",
    "copy purchases to '{lake}/x.csv'",
    "copy purchases from '{file}'",
    "attach '{lake}/x.db' as x",
    "detach memory",
    "export database '{lake}/x'",
    "import database '{lake}/x'",
    "install httpfs",
    "load httpfs",
    "set memory_limit = '1TB'",
    "set variable x = 1",
    "reset memory_limit",
    "pragma database_list",
    "call pragma_version()",
    "insert into purchases values (1)",
    "delete from purchases",
    "truncate purchases",
    "update purchases set item = 'x'",
    "merge into purchases using purchases p on true when matched then delete",
    "create table t as select 1",
    "drop view purchases",
    "select * from query('copy (select 1) to ''{lake}/x.csv''')",
    "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select * from glob('{lake}/*')",
    "select * from read_text('{file}')",
    "select * from '{file}'",
    """select * from "{file}", duckdb_tables()""",
    """select * from '{file}', (with "{file}" as (select 1) select 1)""",
]


def test_no_wrapper_hides_a_statement_that_writes(game: Pipeline) -> None:
    (file,) = (game.project.warehouse / "questlog/purchases/data").rglob("*.parquet")
    hidden = str(file).translate(str.maketrans("/.", "|~"))
    writes = [write.format(file=file, hidden=hidden, lake=game.project.warehouse) for write in WRITES]
    statements = [wrapper.replace("{write}", write) for wrapper in WRAPPERS for write in writes]
    # a statement inside a comment is harmless: the rest is answered
    assert_harmless(game, statements, may_answer=True)


def test_a_nested_pivot_without_values_is_refused_with_a_hint(game: Pipeline) -> None:
    for statement in (
        "explain pivot events on event_type using count(*)",
        "select * from (pivot events on event_type using count(*))",
        "with p as (pivot events on event_type using count(*)) from p",
        "pivot events on event_type in (select item from purchases) using count(*)",
    ):
        with pytest.raises(QueryError, match="PIVOT must list its values") as refused:
            game.sql(statement)
        assert refused.value.hint == "PIVOT … ON column IN ('first', 'second')"


def test_every_table_function_that_is_not_known_to_be_harmless_is_refused(game: Pipeline) -> None:
    listed = "select distinct function_name from duckdb_functions() where function_type in ('table', 'table_macro')"
    names = [name for (name,) in game.sql(listed).rows()]
    assert len(names) > 60
    allowed = {
        "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_tables", "duckdb_types", "duckdb_views",
        "generate_series", "json_each", "json_tree", "pragma_table_info", "pragma_version", "range", "repeat",
        "repeat_row", "summary", "unnest",
    }  # fmt: skip
    assert_harmless(game, [f"select * from {name}('x')" for name in names if name not in allowed])


def test_explain_runs_the_text_that_was_checked(game: Pipeline) -> None:
    for prefix in ("explain", "EXPLAIN ANALYZE", "explain (analyze)", "explain (format json)", "explain/**/analyze"):
        assert game.sql(f"{prefix} select count(*)/* all */from purchases -- x").rows()


# -- DuckDB's tokens -----------------------------------------------------------------------------

PIECES = [
    "; select 2 ", "1", "a", "e", "E", "U&", "$", "$$", "$a$", "a$b$", "'", "''", '"', '""', "`", "\\", "\\'", ";",
    "/*", "*/", "--", "-", "/", "*", "\n", "\r", " ", ",", "é", "(", ")", "+", "x",
]  # fmt: skip


@settings(max_examples=1500)
@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_statements_end_where_duckdb_ends_them(words: list[str]) -> None:
    text = "select 1 as x " + "".join(words)  # most random texts are no SQL at all
    assert "".join(token.text for token in tokens(text)) == text
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error:
        return
    assert len(split_statements(text)) == len(statements)
