"""A plan's version is a hash of its meaning: the same on every machine, different for every other meaning."""

import os
import subprocess
import sys

import pytest

from questlog.plan.load import parse_plan
from support.paths import ROOT

TEXT = """
[game]
name = "castle"
[headers]
keep = ["Host", "Accept"]
[routes]
"GET /a" = "buy"
"GET /b" = "buy"
[events.buy]
description = "Bought."
[events.buy.fields]
price = { type = "decimal(12,2)", min = 1, description = "Cost." }
at = { type = "timestamp", default = 2026-01-01T12:00:00Z }
item = { enum = ["axe", "bow"], aliases = ["thing"] }
[events.win]
match = { kind = "W", won = true }
[events.lose]
match = { kind = "L" }
"""


def test_every_process_computes_the_same_version() -> None:
    program = (
        "import sys; from questlog.plan.load import load_plan, parse_plan;"
        "print(parse_plan(sys.stdin.read()).version, *(load_plan(path).version for path in sys.argv[1:]))"
    )
    plans = [str(ROOT / "examples" / game / "plan.toml") for game in ("swords", "waves")]
    outputs = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC-{int(seed) % 12}", "LC_ALL": "C"}
        command = [sys.executable, "-c", program, *plans]
        ran = subprocess.run(command, input=TEXT, env=environment, capture_output=True, text=True, check=True)
        outputs.add(ran.stdout)
    assert len(outputs) == 1
    versions = outputs.pop().split()
    assert len(set(versions)) == 3
    assert versions[0] == parse_plan(TEXT).version == "77bf2acf0008", "tables that exist name this version"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[game]", "# A comment.\n\n\n[game]"),
        ('name = "castle"', "name   =   'castle' # here"),
        ("min = 1,", "min = 1.0,"),
        ("2026-01-01T12:00:00Z", "2026-01-01T13:00:00+01:00"),
        ("decimal(12,2)", " decimal ( 12 , 2 ) "),
        ('enum = ["axe", "bow"]', 'type = "enum", enum = ["axe", "bow"]'),
        ('"GET /a" = "buy"\n"GET /b" = "buy"', '"GET /b" = "buy"\n"GET /a" = "buy"'),
        ('kind = "W", won = true', 'won = true, kind = "W"'),
        ('min = 1, description = "Cost."', 'description = "Cost.", min = 1'),
        ("[events.buy]\n", "[events.buy]\ntable = 'buy'\nmode = 'quarantine'\n"),
        ("[headers]", "[envelope]\nevent_id = 'event_id'\n[headers]"),
    ],
)
def test_texts_with_one_meaning_have_one_version(old: str, new: str) -> None:
    assert old in TEXT
    assert parse_plan(TEXT.replace(old, new)).version == parse_plan(TEXT).version


WIN, LOSE = '[events.win]\nmatch = { kind = "W", won = true }\n', '[events.lose]\nmatch = { kind = "L" }\n'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"castle"', '"tower"'),
        ('["Host", "Accept"]', '["Accept", "Host"]'),
        ('"Accept"]', '"Accept", "Referer"]'),
        ('"GET /a"', '"GET /c"'),
        ('"Bought."', '"Sold."'),
        ("decimal(12,2)", "decimal(13,2)"),
        ("min = 1,", "min = 1.5,"),
        ("min = 1,", "max = 1,"),
        ("12:00:00Z", "12:00:01Z"),
        ('"axe", "bow"', '"bow", "axe"'),
        ('["thing"]', '["thing", "what"]'),
        ("won = true", "won = 1"),
        (WIN + LOSE, LOSE + WIN),
        ("[events.buy]\n", "[events.buy]\nmode = 'observe'\n"),
        ("[headers]", "[envelope]\nevent_id = 'id'\n[headers]"),
    ],
)
def test_every_change_of_meaning_changes_the_version(old: str, new: str) -> None:
    assert old in TEXT
    assert parse_plan(TEXT.replace(old, new)).version != parse_plan(TEXT).version
