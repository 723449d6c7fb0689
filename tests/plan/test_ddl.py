"""`plan ddl` creates, in another engine, the tables that questlog makes."""

import subprocess
import sys

import duckdb

from questlog.log import Entry
from questlog.pipeline import open_pipeline
from questlog.plan.ddl import create_statements
from questlog.plan.load import parse_plan
from questlog.record import encode_record
from questlog.shape import shape

TEXT = """
[headers]
keep = ["User-Agent"]
[events.select]
description = 'It''s "a" \\ test.'
[events.select.fields]
order = { type = "string", description = "The 'order' \\\\ of \\"it\\"." }
a = "bool"
b = "int"
c = "long"
d = "float"
e = "double"
f = "decimal(12,2)"
g = "timestamp"
h = "date"
i = "list<map<string,int>>"
j = "struct<from:int,to:list<struct<x:decimal(3,1)>>>"
[events.other]
table = "group"
""".replace("It''s", "It`s")
PLAN = parse_plan(TEXT)


def test_duckdb_creates_the_tables_with_types_and_comments() -> None:
    database = duckdb.connect()
    for statement in create_statements(PLAN, "duckdb"):
        database.execute(statement)
    assert database.sql("show tables").fetchall() == [("group",), ("quarantine",), ("select",)]
    comments = database.sql("select table_name, comment from duckdb_tables() order by 1").fetchall()
    assert comments == [
        ("group", None),
        ("quarantine", "Events that could not be shaped, each with its reason and its bytes."),
        ("select", 'It`s "a" \\ test.'),
    ]
    columns = database.sql(
        "select column_name, data_type, comment from duckdb_columns() where table_name = 'select' order by column_index"
    ).fetchall()
    assert [column for column in columns if len(column[0]) == 1 or column[0] == "order"] == [
        ("order", "VARCHAR", "The 'order' \\ of \"it\"."),
        ("a", "BOOLEAN", None), ("b", "INTEGER", None), ("c", "BIGINT", None), ("d", "FLOAT", None),
        ("e", "DOUBLE", None), ("f", "DECIMAL(12,2)", None), ("g", "TIMESTAMP", None), ("h", "DATE", None),
        ("i", "MAP(VARCHAR, INTEGER)[]", None),
        ("j", 'STRUCT("from" INTEGER, "to" STRUCT(x DECIMAL(3,1))[])', None),
    ]  # fmt: skip


def test_duckdb_tables_accept_the_rows_of_shape() -> None:
    database = duckdb.connect()
    for statement in create_statements(PLAN, "duckdb"):
        database.execute(statement)
    good = b'{"event_type":"select","order":"x","f":1.5,"i":[{"k":1}],"j":{"from":1,"to":[{"x":2.5}]},"h":"2026-01-01"}'
    records = [encode_record(body, id=str(n), received_ms=1_790_000_000_000) for n, body in enumerate([good, b"{}"])]
    shaped = shape([Entry(0, n, record, 1_790_000_000_000) for n, record in enumerate(records)], PLAN)
    for name, rows in shaped.tables.items():
        database.register("rows", rows)
        database.execute(f'insert into "{name}" select * from rows')
        database.unregister("rows")
    assert database.sql('select "order", j."to"[1].x, i[1][\'k\'] from "select"').fetchall()[0][0] == "x"
    assert database.sql("select reason from quarantine").fetchall() == [("no_event_type",)]


def test_the_columns_equal_those_of_questlogs_own_tables(tmp_path: object) -> None:
    (tmp_path / "plan.toml").write_text(TEXT)  # type: ignore[operator]
    database = duckdb.connect()
    for statement in create_statements(PLAN, "duckdb"):
        database.execute(statement)
    with open_pipeline(tmp_path) as pipeline:  # type: ignore[arg-type]
        for table in ("select", "group", "quarantine"):
            described = pipeline.sql(f'describe "{table}"').rows()
            columns = database.sql(
                "select column_name, data_type from duckdb_columns() where table_name = $name order by column_index",
                params={"name": table},
            ).fetchall()
            assert [name for name, _, _ in described] == [name for name, _ in columns]
            kinds = [(kind.lower().replace('"', ""), column_type.lower().replace('"', ""))
                     for (_, kind, _), (_, column_type) in zip(described, columns, strict=True)]  # fmt: skip
            assert [kind for kind, _ in kinds] == [column_type for _, column_type in kinds]


def line(statements: list[str], column: str) -> str:
    (declaration,) = [x.strip().rstrip(",") for x in statements[0].splitlines() if x.strip(' `"').startswith(column)]
    return declaration


def test_spark_statements_create_iceberg_tables() -> None:
    statements = list(create_statements(PLAN, "spark"))
    assert len(statements) == 3
    assert line(statements, "order") == "`order` STRING COMMENT 'The \\'order\\' \\\\ of \"it\".'"
    assert line(statements, "g`") == "`g` TIMESTAMP_NTZ"
    assert line(statements, "i`") == "`i` ARRAY<MAP<STRING, INT>>"
    assert line(statements, "j`") == "`j` STRUCT<`from`: INT, `to`: ARRAY<STRUCT<`x`: DECIMAL(3,1)>>>"
    end = "\n)\nUSING iceberg\nCOMMENT 'It`s \"a\" \\\\ test.'\nPARTITIONED BY (days(received_time))"
    assert statements[0].endswith(end)
    assert statements[1].endswith("\n)\nUSING iceberg\nPARTITIONED BY (days(received_time))")


def test_presto_statements_create_iceberg_tables() -> None:
    statements = list(create_statements(PLAN, "presto"))
    assert len(statements) == 3
    assert line(statements, "order") == "\"order\" VARCHAR COMMENT 'The ''order'' \\ of \"it\".'"
    assert line(statements, 'd"') == '"d" REAL'
    assert line(statements, 'i"') == '"i" ARRAY(MAP(VARCHAR, INTEGER))'
    assert line(statements, 'j"') == '"j" ROW("from" INTEGER, "to" ARRAY(ROW("x" DECIMAL(3,1))))'
    assert "\"record\" VARBINARY COMMENT 'The whole record from the log, byte for byte.'" in statements[2]
    assert statements[0].endswith(
        "\n)\nCOMMENT 'It`s \"a\" \\ test.'\nWITH (partitioning = ARRAY['day(received_time)'])"
    )


def test_the_command_prints_statements_that_duckdb_runs_unchanged() -> None:
    command = [sys.executable, "-m", "questlog", "plan", "ddl", "--dialect", "duckdb", "-f", "-"]
    ran = subprocess.run(command, input=TEXT, capture_output=True, text=True, timeout=180)
    database = duckdb.connect()
    database.execute(ran.stdout)
    assert len(database.sql("show tables").fetchall()) == 3
