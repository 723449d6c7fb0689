"""All faults of a plan file are reported at once, each with the line of its key."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from questlog.errors import PlanError
from questlog.pipeline import open_pipeline
from questlog.plan.load import check_plan, load_plan, parse_plan
from questlog.record import encode_record

RIGHT = [
    "",
    "events = {}",
    "[events.hit]",
    "[events.hit.fields]\nat = 'timestamp'\nday = 'date'\nhp = {type = 'decimal(9,2)', min = 0.005, max = '7.00'}",
    "[events.hit.fields]\nat = {type = 'timestamp', min = 2020-01-01, max = 2030-01-01T00:00:00Z}".replace(
        "2020-01-01,", "2020-01-01T00:00:00,"
    ),
    "[events.hit.fields]\nday = {type = 'date', min = 2020-01-01, default = '2021-01-01'}",
    "[events.hit.fields]\nn = {type = 'int', min = 0.5, max = 1e300, default = 3}",
    "[events.hit.fields]\nx = {enum = ['a', 'b'], default = 'b'}\ny = {type = 'int', enum = [1, 2]}",
    "[events.hit.fields]\nx = {type = 'list<struct<a:int,b:map<string,double>>>', default = [{a = 1, b = {c = 1}}]}",
    "[events.hit.fields]\nprice = {type = 'int', aliases = ['Price', 'cost']}",
    "[events.hit]\nmatch = {event_type = 'hit'}\n[routes]\n'POST /hit/<int:id>' = 'hit'",
    "[events.hit]\n[events.kick]\ntable = 'hit'\nfields.by = 'int'\n[events.hit.fields]\nby = 'int'",
    "[events.a]\nmatch = {kind = 1}\n[events.b]\nmatch = {kind = true}\n[events.c]\nmatch = {kind = 2, more = 'x'}",
    "[headers]\nkeep = []\n[events.hit.fields]\nhost = 'string'",
    "[envelope]\nfields = ''\nevent_time = 'meta.time'\n[game]\nname = 'x'\ndescription = 'y'\ndedup_hours = 0",
]


@pytest.mark.parametrize("text", RIGHT)
def test_a_valid_plan_has_no_faults(text: str) -> None:
    assert check_plan(text)[1] == []
    assert parse_plan(text) is not None


FIELD_FAULTS = [
    ("n = 5", "", 'write n = "int"'),
    ("n = {}", "", "has no type"),
    ("n = 'integer'", "", "did you mean 'int'?"),
    ("n = 'strng'", "", "did you mean 'string'?"),
    ("n = 'zzz'", "", "the types are string, bool, int"),
    ("n = {type = 'array<int>'}", ".type", "did you mean 'list<T>'?"),
    ("n = {type = 'list<varchar>'}", ".type", "'varchar' is not a type; did you mean 'string'?"),
    ("n = {type = 'list<>'}", ".type", "a list has one type"),
    ("n = {type = 'map<int,int>'}", ".type", "keys are strings in JSON"),
    ("n = {type = 'struct<>'}", ".type", "write struct<name:T,...>"),
    ("n = {type = 'struct<A:int>'}", ".type", "'A' is not a valid member name"),
    ("n = {type = 'struct<a:int,a:int>'}", ".type", "two members of the struct are named 'a'"),
    ("n = {type = 'list<enum>'}", ".type", "an enum cannot be inside"),
    ("n = {type = '" + "list<" * 40 + "int" + ">" * 40 + "'}", ".type", "nested deeper than 16"),
    ("n = {type = 'decimal(39,2)'}", ".type", "precision is 1 to 38"),
    ("n = {type = 'decimal(2,3)'}", ".type", "scale at most the precision"),
    ("n = {type = 'decimal'}", ".type", "did you mean 'decimal(p,s)'?"),
    ("n = {type = 7}", ".type", "must be text in quotes, not 7"),
    ("n = {type = 'enum'}", ".type", "needs the allowed values"),
    ("n = {type = 'int', requierd = true}", ".requierd", "unknown key; did you mean 'required'?"),
    ("n = {type = 'int', zzz = true}", ".zzz", "unknown key; known: type, required, default"),
    ("n = {type = 'int', required = 'yes'}", ".required", "must be true or false, not 'yes'"),
    ("n = {type = 'int', pii = 1}", ".pii", "must be true or false, not 1"),
    ("n = {type = 'int', deprecated = 'no'}", ".deprecated", "must be true or false"),
    ("n = {type = 'int', description = 7}", ".description", "must be text in quotes, not 7"),
    ("n = {type = 'int', default = 'x'}", ".default", "'x' is not a valid int"),
    ("n = {type = 'int', default = 1.5}", ".default", "1.5 is not a valid int"),
    ("n = {type = 'int', default = true}", ".default", "true is not a valid int"),
    ("n = {type = 'int', default = 2147483648}", ".default", "does not fit int; long holds it"),
    ("n = {type = 'long', default = 9223372036854775808}", ".default", "does not fit long; decimal(38,0) holds it"),
    ("n = {type = 'string', default = 5}", ".default", "5 is not a valid string"),
    ("n = {type = 'bool', default = 0}", ".default", "0 is not a valid bool"),
    ("n = {type = 'double', default = nan}", ".default", "nan is not a valid double"),
    ("n = {type = 'float', default = 1e39}", ".default", "1e+39 is not a valid float"),
    ("n = {type = 'decimal(4,2)', default = 1.005}", ".default", "1.005 is not a valid decimal(4,2)"),
    ("n = {type = 'decimal(4,2)', default = 100}", ".default", "100 is not a valid decimal(4,2)"),
    ("n = {type = 'timestamp', default = 'soon'}", ".default", "'soon' is not a valid timestamp"),
    ("n = {type = 'timestamp', default = 2020-01-01}", ".default", "is not a valid timestamp"),
    ("n = {type = 'date', default = 2020-01-01T00:00:00}", ".default", "is not a valid date"),
    ("n = {type = 'date', default = '2020-02-30'}", ".default", "is not a valid date"),
    ("n = {type = 'list<int>', default = [1, 'x']}", ".default", "'x' is not a valid int"),
    ("n = {type = 'map<string,int>', default = {a = 'x'}}", ".default", "'x' is not a valid int"),
    ("n = {type = 'struct<a:int>', default = {b = 1}}", ".default", "'b' is not a member of struct<a:int>"),
    ("n = {type = 'struct<a:int>', default = {a = 'x'}}", ".default", "'x' is not a valid int"),
    ("n = {type = 'string', min = 1}", ".min", "is for numbers and times, not for string"),
    ("n = {type = 'string', max = 64}", ".max", "use max_length for its length"),
    ("n = {type = 'int', min = inf}", ".min", "inf is not a valid int"),
    ("n = {type = 'int', min = 'a'}", ".min", "'a' is not a valid int"),
    ("n = {type = 'timestamp', min = 'a'}", ".min", "'a' is not a valid timestamp"),
    ("n = {type = 'int', min = 5, max = 4}", ".max", "4 is less than min = 5"),
    ("n = {type = 'timestamp', min = 2020-01-02T00:00:00, max = 2020-01-01T23:00:00-01:00, default = ''}",
     ".default", "'' is not a valid timestamp"),
    ("n = {type = 'int', min = 5, default = 4}", ".default", "4 is less than min = 5"),
    ("n = {type = 'int', max = 5, default = 6}", ".default", "6 is greater than max = 5"),
    ("n = {type = 'date', max = 2020-01-01, default = '2020-01-02'}", ".default", "is greater than max = 2020-01-01"),
    ("n = {type = 'int', max_length = 5}", ".max_length", "is for string and list<T>, not for int"),
    ("n = {type = 'string', max_length = 0}", ".max_length", "must be a whole number of at least 1, not 0"),
    ("n = {type = 'string', max_length = true}", ".max_length", "must be a whole number of at least 1, not true"),
    ("n = {type = 'string', max_length = 2, default = 'abc'}", ".default", "is longer than max_length = 2"),
    ("n = {type = 'int', pattern = 'x'}", ".pattern", "is for string, not for int"),
    ("n = {type = 'string', pattern = '('}", ".pattern", "is not a regular expression: missing )"),
    ("n = {type = 'string', pattern = 5}", ".pattern", "must be a regular expression in quotes"),
    ("n = {type = 'string', pattern = '^a', default = 'b'}", ".default", "does not match pattern = '^a'"),
    ("n = {type = 'bool', enum = [true]}", ".enum", "is for string and numbers, not for bool"),
    ("n = {enum = []}", ".enum", "must list the allowed values"),
    ("n = {enum = 'gold'}", ".enum", "must list the allowed values"),
    ("n = {enum = ['a', 3]}", ".enum[1]", "3 is not a valid string"),
    ("n = {enum = ['a', 'b', 'a']}", ".enum[2]", "'a' is listed twice"),
    ("n = {enum = ['a', 'b'], default = 'c'}", ".default", "'c' is not in enum = ['a', 'b']"),
    ("n = {type = 'int', min = 2, enum = [1, 2]}", ".enum[0]", "1 is less than min = 2"),
    ("n = {type = 'int', aliases = 'm'}", ".aliases", "must be a list of former names"),
    ("n = {type = 'int', aliases = [5]}", ".aliases", "must be a list of former names"),
    ("n = {type = 'int', aliases = ['n']}", ".aliases[0]", "'n' is listed twice"),
    ("n = {type = 'int', aliases = ['m', 'm']}", ".aliases[1]", "'m' is listed twice"),
    ("n = {type = 'int', aliases = ['other']}", ".aliases[0]", "'other' is already a name of field other"),
    ("n = {type = 'int', aliases = ['player_id']}", ".aliases[0]", "is a column of every table"),
    ("n = {type = 'int', aliases = ['host']}", ".aliases[0]", "is a column of every table"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "below", "message"), FIELD_FAULTS)
def test_a_fault_of_a_field(field: str, below: str, message: str) -> None:
    text = f"# n\n[events.hit.fields]\nother = 'int' # n = 1\n{field}\nlast = 'int'\n"
    plan, faults = check_plan(text)
    assert plan is None
    assert [(fault.line, fault.path) for fault in faults] == [(4, f"events.hit.fields.n{below}")]
    assert message in faults[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[evnts.a]", [(1, "evnts", "unknown key; did you mean 'events'?")]),
        ("events = 1", [(1, "events", "must be a table, as in [events], not 1")]),
        ("[events]\na = 1", [(2, "events.a", "must be a table")]),
        ("[events.a]\nfields = 'x'", [(2, "events.a.fields", "must be a table")]),
        ("[events.a]\nmodes = 'x'", [(2, "events.a.modes", "did you mean 'mode'?")]),
        ("[events.a]\nmode = 'regect'", [(2, "events.a.mode", "is not a mode; did you mean 'reject'?")]),
        ("[events.a]\nmode = 7", [(2, "events.a.mode", "the modes are observe, quarantine, reject")]),
        ("[events.a]\nowner = 7", [(2, "events.a.owner", "must be text in quotes, not 7")]),
        ("[events.a]\ntable = 'A b'", [(2, "events.a.table", "'A b' is not a valid table name")]),
        ("[events.a]\ntable = 7", [(2, "events.a.table", "7 is not a valid table name")]),
        ("[events.a]\ntable = 'events'", [(2, "events.a.table", "give it another table")]),
        ("\n[events.quarantine]", [(2, "events.quarantine", "give it another table")]),
        ("[events.buySword]", [(1, "events.buySword", "write buy_sword: a name has a-z")]),
        ("[events.'BEGIN.0']", [(1, 'events."BEGIN.0"', 'add match = { event_type = "BEGIN.0" }')]),
        (
            "[events.a.fields]\nitem = 'int'\nItem = 'int'",
            [(3, "events.a.fields.Item", "differ only in case"), (3, "events.a.fields.Item", 'add aliases = ["Item"]')],
        ),
        ("[events.a.fields]\nevent_id = 'int'", [(2, "events.a.fields.event_id", "a column of every table")]),
        ("[events.a.fields]\nreceived_day = 'date'", [(2, "events.a.fields.received_day", "of every table")]),
        ("[events.a.fields]\nuser_agent = 'int'", [(2, "events.a.fields.user_agent", "of header User-Agent")]),
        (
            "[events.a.fields]\nx = 'int'\n[events.b]\ntable = 'a'\n[events.b.fields]\nx = 'long'",
            [(6, "events.b.fields.x", "is long here and int in event a, both in table a")],
        ),
        (
            "[events.a.fields]\nx = 'int'\n[events.b]\ntable = 'a'\n[events.b.fields]\n"
            "y = {type = 'int', aliases = [\n'z',\n'x']}",
            [(8, "events.b.fields.y.aliases[1]", "'x' is still a field of event a in the same table a")],
        ),
        (
            "[events.a.fields]\nx = {type = 'int', aliases = ['z']}\ny = {type = 'int', aliases = ['z']}",
            [(3, "events.a.fields.y.aliases[0]", "'z' is already a name of field x")],
        ),
        ("[events.a.match]\n'' = 1", [(2, 'events.a.match.""', "must be the path of a key")]),
        ("[events.a.match]\nx = [1]", [(2, "events.a.match.x", "must be text, a number, true or false")]),
        (
            "[events.a]\nmatch = {k = 1}\n[events.b]\nmatch = {k = 1, l = 2}",
            [(4, "events.b.match", "never applies: everything it matches is already matched by a")],
        ),
        ("[routes]\n'get /' = 'a'\n[events.a]", [(2, 'routes."get /"', "did you mean 'GET'?")]),
        ("[routes]\n'STEAL /' = 'a'\n[events.a]", [(2, 'routes."STEAL /"', "the methods are GET")]),
        ("[routes]\n'GET x' = 'a'\n[events.a]", [(2, 'routes."GET x"', 'as in "GET /shop/<item>"')]),
        ("[routes]\n'GET /x?y=1' = 'a'\n[events.a]", [(2, 'routes."GET /x?y=1"', "without a query string")]),
        ("[routes]\n'GET /' = 'hitt'\n[events.hit]", [(2, 'routes."GET /"', "not declared; did you mean 'hit'?")]),
        ("[routes]\n'GET /' = 7", [(2, 'routes."GET /"', "must be an event's name in quotes, not 7")]),
        (
            "[routes]\n'GET /' = 'a'\n[events.a]\nmatch = {kind = 1}",
            [(2, 'routes."GET /"', "identified by its match, which a route does not send")],
        ),
        ("[headers]\nkeep = 'Host'", [(2, "headers.keep", "must be a list")]),
        ("[headers]\nkep = []", [(2, "headers.kep", "did you mean 'keep'?")]),
        ("[headers]\nkeep = [\n'Host',\n'X Y']", [(4, "headers.keep[1]", "is not a header name")]),
        ("[headers]\nkeep = [5]", [(2, "headers.keep[0]", "is not a header name")]),
        ("[headers]\nkeep = ['cookie']", [(2, "headers.keep[0]", "holds secrets and is never kept")]),
        ("[headers]\nkeep = ['X-Id',\n'x_id']", [(3, "headers.keep[1]", "x_id and X-Id have the same column, x_id")]),
        ("[headers]\nkeep = ['Event-Id']", [(2, "headers.keep[0]", "event_id, is a column of every table")]),
        ("[envelope]\nevents_time = 'x'", [(2, "envelope.events_time", "did you mean 'event_time'?")]),
        ("[envelope]\nevent_time = 'a..b'", [(2, "envelope.event_time", "must be the path of a key")]),
        ("[envelope]\nevent_time = 7", [(2, "envelope.event_time", "must be the path of a key")]),
        ("[envelope]\nevent_time = 'event_id'", [(2, "envelope.event_time", "are both at 'event_id'")]),
        ("[game]\ndedup_hours = -1", [(2, "game.dedup_hours", "must be 0 to 8784 hours, not -1")]),
        ("[game]\ndedup_hours = inf", [(2, "game.dedup_hours", "must be 0 to 8784 hours, not inf")]),
        ("[game]\nname = 7", [(2, "game.name", "must be text in quotes, not 7")]),
        ("a = 1\nb = = 2", [(2, "", "not TOML, column 5: Invalid value")]),
        ("a = 1\nb = [\n\n", [(2, "", "not TOML: Invalid value")]),
        ("a = 1\n\na = 2\n", [(3, "", "Cannot overwrite a value")]),
        ("a = " + "9" * 5000, [(1, "", "not TOML")]),
        ("a = " + "[" * 5000, [(1, "", "nested too deep")]),
    ],
)
def test_a_fault_elsewhere(text: str, expected: list[tuple[int, str, str]]) -> None:
    plan, faults = check_plan(text)
    assert plan is None
    assert [(fault.line, fault.path) for fault in faults] == [(line, path) for line, path, _ in expected]
    for fault, (_, _, message) in zip(faults, expected, strict=True):
        assert message in fault.message


def test_all_faults_are_reported_at_once_sorted_by_line() -> None:
    text = "\n".join(f"[events.e{n}.fields]\nx = 'strng'" for n in range(50)) + "\n[gaem]\n"
    _, faults = check_plan(text)
    assert [fault.line for fault in faults] == [*range(2, 101, 2), 101]
    with pytest.raises(PlanError, match="51 fault") as refused:
        parse_plan(text)
    assert len(refused.value.faults) == 51
    assert refused.value.faults[0] == "line 2: events.e0.fields.x: 'strng' is not a type; did you mean 'string'?"


def test_a_file_that_cannot_be_read_is_reported_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="No such file"):
        load_plan(tmp_path / "plan.toml")
    (tmp_path / "plan.toml").write_bytes(b"[game]\nname = '\xff'")
    with pytest.raises(PlanError, match="not UTF-8 at byte 15"):
        load_plan(tmp_path / "plan.toml")


def test_a_plan_saved_on_windows_loads(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_bytes(b"\xef\xbb\xbf[game]\r\nname = 'x'\r\n")
    assert load_plan(tmp_path / "plan.toml").game == "x"


def questlog(*arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "questlog", *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=180)


def test_the_command_prints_file_and_line_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[events.hit.fields]\nby = 'strng'\n")
    ran = questlog("-C", tmp_path, "plan", "check")
    assert ran.returncode == 1
    assert ran.stdout == (
        f"{tmp_path}/plan.toml:2: events.hit.fields.by: 'strng' is not a type; did you mean 'string'?\n"
    )
    assert ran.stderr == f"1 fault in {tmp_path}/plan.toml\n"
    ran = questlog("plan", "check", tmp_path / "plan.toml", "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["faults"] == [
        {"line": 2, "path": "events.hit.fields.by", "message": "'strng' is not a type; did you mean 'string'?"}
    ]


def test_the_command_reads_standard_input_and_accepts_a_valid_plan() -> None:
    ran = questlog("plan", "check", "-", text="[events.hit.fields]\nby = 'string'\n")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("standard input is valid: 1 event, 1 field, version ")


def test_the_projects_plan_is_compared_with_its_tables(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text("[events.hit.fields]\nby = 'string'\n")
    pipeline = open_pipeline(tmp_path)
    pipeline.log.append([encode_record(b'{"event_type": "hit"}', id="1", received_ms=1_790_000_000_000)])
    with pipeline.lander() as lander:
        lander.drain()
    assert questlog("-C", tmp_path, "plan", "check").returncode == 0
    plan.write_text("[events.hit.fields]\nnew = 'int'\nby = 'int'\n")
    for command in (("-C", tmp_path, "plan", "check"), ("-C", tmp_path, "plan", "check", plan)):
        ran = questlog(*command)
        assert ran.returncode == 1
        assert (
            f"{plan}:3: events.hit.fields.by: the type is now int, but column by of table hit holds string"
            in ran.stdout
        )
    other = tmp_path / "other.toml"
    other.write_text(plan.read_text())
    assert questlog("-C", tmp_path, "plan", "check", other).returncode == 0
