"""`plan suggest` turns events that were sent into what the plan lacks."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from questlog.pipeline import open_pipeline
from questlog.plan import Envelope, Plan
from questlog.plan.infer import ObservedValues
from questlog.plan.load import parse_plan
from questlog.plan.render import additions, extended
from questlog.record import encode_record
from questlog.suggest import Suggester, Suggestion, guess_envelope
from support.paths import WAVES

WAVES = WAVES / "waves.jsonl.gz"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, None], "bool"),
        ([0, 1_000_000], "int"),
        ([0, -1_000_001], "long"),
        ([2**63], "decimal(38,0)"),
        ([10**38], "None"),
        ([1, 2.5], "double"),
        ([1.0], "double"),
        ([float("inf")], "None"),
        (["a", ""], "string"),
        (["2026-01-01", "2026-02-28"], "date"),
        (["2026-01-01", "2026-02-30"], "string"),
        (["2026-01-01T10:00:00Z", "2026-01-01 10:00"], "timestamp"),
        (["2026-01-01T10:00:00Z", "2026-01-01"], "string"),
        (["20260101"], "string"),
        ([[1], [], [None, 2]], "list<int>"),
        ([[]], "None"),
        ([[1], ["a"]], "None"),
        ([[[1.5]], None], "list<list<double>>"),
        ([{"x": 1, "y": {"z": "a"}}, {"x": 2**40}], "struct<x:long,y:struct<z:string>>"),
        ([{"x": 1, "n": None}], "struct<x:int,n:string>"),
        ([{"1": 1}, {"2": 2}], "map<string,int>"),
        ([{f"k{n}": n} for n in range(9)], "map<string,int>"),
        ([{"a": 1}, {"b": "x"}, {"c": 1}], "None"),
        ([{}], "None"),
        ([1, "a"], "None"),
        ([None], "None"),
        ([{str(n): 1.5 for n in range(200)}], "map<string,double>"),
    ],
)
def test_the_type_holds_every_value(values: list[Any], expected: str) -> None:
    seen = ObservedValues()
    for value in values:
        seen.add(value)
    assert str(seen.type()) == expected
    if expected == "None":
        assert seen.why_none()


def suggestion(plan: str, *bodies: Any) -> Suggestion:
    suggester = Suggester(parse_plan(plan))
    for body in bodies:
        suggester.add(body if isinstance(body, bytes) else json.dumps(body).encode())
    return suggester.finish()


PLAN = """\
# The plan of a castle.
[game]
name = "castle"

[events.buy]  # bought
description = "Bought."

[events.buy.fields]
item = "string"  # which one

# People join.
[events.join]
[events.kick]
fields.by = "int"
"""


def test_unknown_fields_and_events_are_added_in_place() -> None:
    suggested = suggestion(
        PLAN,
        {"event_type": "buy", "item": "axe", "Price": 5},
        {"event_type": "buy", "price": 2.5, "item": "axe"},
        {"event_type": "join", "guild": "elves"},
        {"event_type": "kick", "by": 1, "whom": "bob"},
        {"event_type": "Level Up", "to": 2},
        {"event_type": "quarantine", "why": "x"},
    )
    assert suggested.read == 6
    text = additions(suggested.fields, suggested.events, suggested.notes)
    assert text == ADDED
    assert parse_plan(text).tables.keys() == {"buy", "join", "kick", "level_up", "quarantine_table"}
    whole = extended(PLAN, suggested.merged, suggested.fields, suggested.events, suggested.notes)
    assert parse_plan(whole) == suggested.merged
    left = iter(whole.splitlines())
    assert all(line in left for line in PLAN.splitlines()), "every line stays, in its order"


ADDED = """\
[events.buy.fields]
# in 1 of 2 events
price_2 = { type = "int", aliases = ["Price"] }
# in 1 of 2 events
price = "double"

[events.join.fields]
# always sent: elves
guild = "string"

[events.kick.fields]
# always sent: bob
whom = "string"

# seen once
[events.level_up]
match = { event_type = "Level Up" }

[events.level_up.fields]
# always sent
to = "int"

# seen once
[events.quarantine]
table = "quarantine_table"

[events.quarantine.fields]
# always sent: x
why = "string"
"""


@pytest.mark.parametrize(
    "text",
    [
        "[events.buy.fields]\nitem = 'string'",
        "[events.buy]",
        "[events.buy]\nfields.item = 'string'\ntable = 'b'\n\n# next\n[events.other]",
        "[events.buy]\n[events.buy.fields.item]\ntype = 'string'",
        "[events.buy.fields.item]\ntype = 'string'",
        "[events]\nbuy.fields.item = 'string'",
        "events.buy.fields.item = 'string'",
        "events = {buy = {fields = {item = 'string'}}}",
        "[events.buy]\nfields = {item = 'string'}",
        '[events."buy"."fields"] # [x]\nitem = { enum = [\n"a",\n"[b]"] } # {',
        "[events.buy.fields]",
    ],
)
def test_fields_are_added_to_a_file_of_any_style_or_not_at_all(text: str) -> None:
    suggested = suggestion(text, {"event_type": "buy", "price": 5}, {"event_type": "sell"})
    whole = extended(text, suggested.merged, suggested.fields, suggested.events, suggested.notes)
    if whole:
        assert parse_plan(whole) == suggested.merged
        assert text in whole or "\n# next" in text
    else:
        assert "{fields" in text or "fields = {" in text or "buy.fields.item" in text
    assert (
        parse_plan(additions(suggested.fields, suggested.events, suggested.notes)).events["buy"].fields[0].name
        == "price"
    )


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        (
            [{"event_type": "buy", "x": 1}, {"event_type": "buy", "x": "a"}],
            "buy.x: no type holds whole numbers (1) and",
        ),
        ([{"event_type": "buy", "x": None}], "buy.x: always null; the field stays in _rescued"),
        ([{"event_type": "buy", "host": "a"}], "buy.host: every table has a column of that name"),
        ([{"event_type": "buy", "": 1}], "buy.: every table has a column"),
        (
            [{"event_type": "buy", "item": 5}],
            "buy.item: 1 value does not fit its rules: it is string, the values are int",
        ),
        (
            [{"event_type": "buy", "player_id": [5]}],
            "buy.player_id: 1 value does not fit the envelope, which reads this key",
        ),
        ([{"item": 5}, {}], "no_event_type: 2 of the events"),
        ([b"{", b"\xff"], "not_json: 2 of the events"),
    ],
)
def test_fields_that_cannot_be_suggested_are_reported(bodies: list[Any], reason: str) -> None:
    suggested = suggestion(PLAN, *bodies)
    assert (suggested.events, suggested.fields) == ((), {})
    assert len(suggested.left_out) == 1
    assert suggested.left_out[0].startswith(reason)


def test_events_of_one_table_share_a_column() -> None:
    plan = "[events.a]\ntable = 't'\nfields.n = 'long'\n[events.b]\ntable = 't'"
    suggested = suggestion(
        plan,
        {"event_type": "b", "n": 5, "m": 1, "o": 1},
        {"event_type": "a", "m": "x", "o": 2},
        {"event_type": "b", "n": 6},
    )
    assert [str(field.type) for field in suggested.fields["b"]] == ["long", "int", "int"]
    assert [field.name for field in suggested.fields["a"]] == ["o"]
    assert suggested.left_out == (
        "a.m: it is string, but the table's column of that name is int; the field stays in _rescued",
    )
    assert parse_plan(additions(suggested.fields, suggested.events, suggested.notes))


def test_ids_sent_as_event_types_suggest_a_bounded_number_of_events() -> None:
    suggested = suggestion("", *({"event_type": f"e{n}"} for n in range(500)))
    assert len(suggested.events) == 200
    assert suggested.left_out == ("unknown_event_type: 300 of the events",)


def test_personal_fields_are_marked_as_pii_and_their_values_hidden() -> None:
    suggested = suggestion("", {"event_type": "a", "email": "ann@example.org", "userEmail": "x", "level": "hard"})
    fields = {field.name: field.pii for field in suggested.events[0].fields}
    assert fields == {"email": True, "user_email": True, "level": False}
    text = additions(suggested.fields, suggested.events, suggested.notes)
    assert "hard" in text and "ann@" not in text


def test_the_envelope_is_found_under_its_common_keys() -> None:
    bodies = [
        {"eventName": "buy", "ts": 1790000000000 + n, "userId": 7, "seq": n, "properties": {"n": n}, "id": "7"}
        for n in range(9)
    ]
    raws = [json.dumps(body).encode() for body in bodies]
    expected = Envelope("eventName", "event_id", "ts", "userId", "session_id", "seq", "properties")
    assert guess_envelope(raws) == expected
    assert guess_envelope([b"{", b"[]", b'{"x": 1}']) == Envelope()
    suggester = Suggester(Plan("game", "", envelope=expected))
    for raw in raws:
        suggester.add(raw)
    (event,) = suggester.finish().events
    assert [(field.name, str(field.type)) for field in event.fields] == [("n", "int")]


def questlog(folder: Path, *arguments: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "questlog", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, timeout=180)


def test_a_plan_suggested_from_real_events_accepts_all_of_them(tmp_path: Path) -> None:
    ran = questlog(tmp_path, "plan", "suggest", WAVES)
    assert ran.returncode == 0
    assert "5,832 events read: 11 new events" in ran.stderr
    (tmp_path / "plan.toml").write_text(ran.stdout)
    plan = parse_plan(ran.stdout)
    suggester = Suggester(plan)
    with gzip.open(WAVES) as lines:
        for line in lines:
            suggester.add(line.strip())
    again = suggester.finish()
    assert (again.events, again.fields) == ((), {})
    assert [reason for reason in again.left_out if "always null" not in reason] == []


def test_a_project_suggests_from_quarantined_and_rescued_values(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    bodies = [
        b'{"event_type": "buy", "item": "axe", "price": 5}',
        b'{"event_type": "buy", "item": 7, "color": "red"}',
        b'{"event_type": "level_up", "to": 3}',
        b"{not json",
    ]
    pipeline = open_pipeline(tmp_path)
    records = [
        encode_record(body, id=str(n), received_ms=1_790_000_000_000, is_json=b"not" not in body)
        for n, body in enumerate(bodies)
    ]
    pipeline.log.append(records[:2])
    with pipeline.lander() as lander:
        lander.drain()
    pipeline.log.append(records[2:])
    printed = questlog(tmp_path, "plan", "suggest")
    assert (printed.returncode, printed.stderr.splitlines()[-1]) == (0, "4 events read: 1 new event, 3 new fields")
    assert "buy.item: 1 value does not fit its rules: it is string, the values are int" in printed.stderr
    assert (tmp_path / "plan.toml").read_text() == PLAN
    written = questlog(tmp_path, "plan", "suggest", "--write")
    assert written.returncode == 0
    plan = parse_plan((tmp_path / "plan.toml").read_text())
    assert [field.name for field in plan.events["buy"].fields] == ["item", "price", "color"]
    assert [field.name for field in plan.events["level_up"].fields] == ["to"]
    assert "# The plan of a castle." in (tmp_path / "plan.toml").read_text()
    assert questlog(tmp_path, "plan", "suggest").stdout == "# Nothing is missing.\n"
    pipeline.log.append([encode_record(bodies[2], id="9", received_ms=1_790_000_000_000)])
    assert open_pipeline(tmp_path).sql('select max("to") from level_up').rows() == [(3,)]


def test_without_a_plan_or_events_the_command_gives_a_hint(tmp_path: Path) -> None:
    ran = questlog(tmp_path, "plan", "suggest")
    assert ran.returncode == 2
    assert "questlog init starts a project" in ran.stderr
    ran = questlog(tmp_path, "plan", "suggest", "-", text='{"event_type": "hit", "by": 1}\n\n')
    assert ran.returncode == 0
    assert [field.name for field in parse_plan(ran.stdout).events["hit"].fields] == ["by"]


def test_a_file_that_cannot_be_edited_is_not_changed(tmp_path: Path) -> None:
    text = "[events.buy]\nfields = {item = 'string'}\n"
    (tmp_path / "plan.toml").write_text(text)
    ran = questlog(tmp_path, "plan", "suggest", "--write", "-", text='{"event_type": "buy", "x": 1}\n')
    assert ran.returncode == 1
    assert "add by hand" in ran.stderr
    assert (tmp_path / "plan.toml").read_text() == text
