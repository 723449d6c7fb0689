"""`questlog sql` for scripts: formats, files, pipes, errors."""

import csv
import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.cli_project import Project

HIT = '{"event_type": "hit", "damage": 1}'
TRICKY = (
    "select 1 as n, 'a,\"b\"\nc' as text, null as nothing, '' as blank, 12345678901234567.89::decimal(30,2) as price"
)


def test_a_table_is_aligned(project: Project) -> None:
    project.send(HIT, HIT)
    ran = project.run("sql", "select event_type, damage, player_id from hit limit 1")
    assert (
        ran.stdout
        == "event_type  damage  player_id\n----------  ------  ---------\nhit              1  NULL\n(1 row)\n"
    )


def test_several_statements_print_their_results_in_order(project: Project) -> None:
    ran = project.run("sql", "select 1 as a; -- first\nselect ';' as b;")
    assert ran.stdout == "a\n-\n1\n(1 row)\n\nb\n-\n;\n(1 row)\n"


def test_csv_distinguishes_null_from_an_empty_string(project: Project) -> None:
    out = project.run("sql", "--format", "csv", TRICKY).stdout
    assert out.splitlines()[0] == "n,text,nothing,blank,price"
    assert list(csv.reader(io.StringIO(out)))[1] == ["1", 'a,"b"\nc', "", "", "12345678901234567.89"]
    assert ',,"",12345678901234567.89' in out


@pytest.mark.parametrize("format_", ["json", "ndjson"])
def test_json(project: Project, format_: str) -> None:
    out = project.run("sql", "--format", format_, TRICKY).stdout
    row = json.loads(out)[0] if format_ == "json" else json.loads(out.splitlines()[0])
    assert row == {"n": 1, "text": 'a,"b"\nc', "nothing": None, "blank": "", "price": 12345678901234567.89}
    assert '"price":12345678901234567.89' in out, "every digit"


def test_json_of_values_that_json_cannot_express(project: Project) -> None:
    statement = (
        "select 1267650600228229401496703205376::hugeint as n,"
        " 'nan'::double as odd, interval 90 minutes as took, '\\xff'::blob as bytes,"
        " map {'a': 1.5} as m, {'x': [date '2026-01-02']} as s, timestamp '2026-01-02 03:04:05.678' as at, 1 as n"
    )
    (row,) = json.loads(project.run("sql", "--json", statement).stdout)
    assert row == {
        "n": 2**100, "odd": None, "took": "PT5400S", "bytes": "/w==", "m": {"a": 1.5}, "s": {"x": ["2026-01-02"]},
        "at": "2026-01-02T03:04:05.678000", "n_1": 1,
    }  # fmt: skip


def test_json_of_no_rows_is_valid(project: Project) -> None:
    assert json.loads(project.run("sql", "--json", "select * from hit").stdout) == []


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_binary_formats_are_written_to_a_file_or_a_pipe(project: Project, suffix: str) -> None:
    project.send(HIT, HIT)
    target = project.folder / f"out.{suffix}"
    assert project.run("sql", "-o", str(target), "select damage, event_time from hit").returncode == 0
    table = pq.read_table(target) if suffix == "parquet" else pa.ipc.open_stream(target.read_bytes()).read_all()
    assert table["damage"].to_pylist() == [1, 1]
    piped = subprocess.run(
        [sys.executable, "-m", "questlog", "-C", str(project.folder), "sql", "--format", suffix, "select 1 as n"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    read = pq.read_table(io.BytesIO(piped)) if suffix == "parquet" else pa.ipc.open_stream(piped).read_all()
    assert read.to_pylist() == [{"n": 1}]


def test_statements_are_read_from_a_file_or_standard_input(project: Project) -> None:
    (project.folder / "q.sql").write_text("select 40 + 2 as answer;\n")
    assert "42" in project.run("sql", "-f", str(project.folder / "q.sql")).stdout
    assert "42" in project.run("sql", input="select 40 + 2 as answer").stdout


def test_an_error_keeps_the_old_output_file(project: Project) -> None:
    target = project.folder / "out.csv"
    target.write_text("old")
    ran = project.run("sql", "-o", str(target), "select * from nothing")
    assert (ran.returncode, "there is no table nothing" in ran.stderr, target.read_text()) == (1, True, "old")
    assert "Traceback" not in ran.stderr and [p.name for p in project.folder.glob(".out*")] == []


def test_control_characters_in_values_never_reach_the_terminal(project: Project) -> None:
    project.send('{"event_type": "hit", "player_id": "\\u001b[2J\\u0007\\u202e"}')
    out = project.run("sql", "select player_id from hit").stdout
    assert "\\x1b[2J\\x07\\u202e" in out and "\x1b" not in out


def test_a_reader_that_closes_the_pipe_is_not_an_error(project: Project) -> None:
    command = f"{sys.executable} -m questlog -C {project.folder} sql --format csv 'from range(1000000)' | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ran.stdout.strip(), ran.stderr) == ("range", "")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--format", "parquet", "select 1; select 2"), "parquet holds the rows of one statement"),
        (("--format", "xml", "select 1"), "'xml' is not one of"),
        (("-f", "/dev/null", "select 1"), "not both"),
    ],
)
def test_incorrect_usage_is_explained(project: Project, arguments: tuple[str, ...], error: str) -> None:
    ran = project.run("sql", *arguments)
    assert (ran.returncode, error in ran.stderr) == (2, True)
