"""Write a project with whichever version of questlog is on the path, and pack it: see README.md beside this file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

HOME = Path("/tmp/questlog-0.1.0-fixture")  # the catalog names files by absolute path: they are unpacked to this one
GAME, QUEUE, SPOOL = HOME / "game", HOME / "client.db", HOME / "spool"
START_MS, DAY_MS = 1_790_000_000_000, 86_400_000

PLAN = """
[game]
name = "fixture"

[headers]
keep = ["Host"]

[events.join_guild.fields]
guild = "string"

[events.purchase_sword]
table = "sword_purchases"

[events.purchase_sword.fields]
price = { type = "decimal(12,2)", min = 0 }
currency = { type = "string", enum = ["gold", "usd"], default = "gold" }

[events.everything.fields]
flag = "bool"
small = "int"
large = "long"
single = "float"
ratio = "double"
day = "date"
moment = "timestamp"
tags = "list<string>"
counts = "map<string,long>"
spot = "struct<x:int,y:double>"
path = "list<struct<x:int,label:string>>"
"""
GROWN = PLAN.replace('guild = "string"', 'clan = { type = "string", aliases = ["guild"] }\nrank = "int"')

QUERIES = (
    "select count(*) from join_guild",
    "select clan, count(*) n, sum(rank) ranks from join_guild group by clan order by clan",
    "select event_id, price, currency from sword_purchases order by event_id",
    "select * exclude (landed_time, raw_event, plan_version) from everything order by event_id",
    "select reason, field, count(*) n from quarantine group by all order by all",
    "select host, count(*) n from join_guild group by host order by host",
    "select event_type, count(*) n, count(distinct event_id) ids, min(received_time) first, max(received_time) last"
    " from events group by event_type order by event_type",
    "select event_id, count(*) n from events group by event_id having count(*) > 1",
)


def records(first: int, count: int) -> list[bytes]:
    """Return records with every outcome: four types, refused ones, and repeats of ids that clients chose."""
    from questlog.record import encode_record

    made = []
    for number in range(first, first + count):
        everything = {
            "event_type": "everything",
            "flag": number % 3 == 0,
            "small": -number,
            "large": 2**53 + number,
            "single": 0.5,
            "ratio": number / 7,
            "day": "2026-02-28",
            "moment": "2026-09-21T13:33:20.123Z",
            "tags": ["a", "ü", None],
            "counts": {"won": number, "lost": None},
            "spot": {"x": number, "y": None},
            "path": [{"x": 1, "label": "start"}, {"x": None, "label": "end"}],
        }
        body = (
            {"event_type": "join_guild", "guild": "wolves" if number % 2 else "bears"},
            {"event_type": "purchase_sword", "price": f"{number}.50"},
            everything,
            {"event_type": "purchase_sword", "price": "a lot"},
            {"event_type": "dance", "style": "waltz"},
            {"event_type": "join_guild", "guild": "otters", "rank": number, "mood": "unplanned"},
        )[number % 6]
        repeat = number % 10 == 0
        made.append(
            encode_record(
                json.dumps(body).encode(),
                id=f"repeat-{number % 4}" if repeat else f"e{number}",
                received_ms=START_MS + number % 2 * DAY_MS + number,
                headers={"Host": f"user{number % 2}.example.com"},
                client_id=repeat,
            )
        )
    return made


def append(first: int, count: int) -> None:
    """Append in group commits of four and die at once, so that the log's write-ahead file stays."""
    from questlog.pipeline import open_pipeline

    log = open_pipeline(GAME).log
    for start in range(first, first + count, 4):
        log.append(records(start, 4))
    os._exit(0)


def append_side_by_side() -> None:
    """Append as two concurrent processes do: each to its own partition."""
    from questlog.pipeline import open_pipeline

    one, other = open_pipeline(GAME).log, open_pipeline(GAME).log
    one.append(records(180, 12))
    other.append(records(192, 12))
    os._exit(0)


def land() -> None:
    from questlog.pipeline import open_pipeline

    with open_pipeline(GAME).lander() as lander:
        lander.drain()


def land_half() -> None:
    """Land 8 records of a file; die when the tables hold the next 8 and the checkpoint does not cover them yet."""
    import questlog.land.loop as loop
    from questlog.pipeline import open_pipeline

    with open_pipeline(GAME, batch_records=8).lander() as lander:
        lander.step()
        loop.save_progress = lambda *_: os._exit(0)
        lander.step()


def track() -> None:
    """Queue events for a collector that does not answer."""
    from questlog.client import Client

    client = Client("http://127.0.0.1:9/v1/events", "ql_fixture", queue=QUEUE)
    for number in range(3):
        client.track("join_guild", guild="owls", event_id=f"queued-{number}")
    os._exit(0)


def keys() -> None:
    from questlog.collect.keys.store import KeyStore

    store = KeyStore(GAME / ".questlog" / "keys.db")
    texts = {
        "web": store.create("web", ["https://game.example.com"], 50.0, signed=False)[1],
        "server": store.create("server", [], 0.0, signed=True)[1],
        "old": store.create("old", [], 0.0, signed=False)[1],
    }
    store.end("old", START_MS)
    (HOME / "keys.json").write_text(json.dumps(texts))


def spool() -> None:
    """Remember a forwarder's state, with an error and a sealed handover."""
    from questlog.log.kafka.spool import Handover, Spool

    with Spool(SPOOL, SPOOL / "log") as memory:
        memory.hand_over(Handover("h1", "questlog at thrift://127.0.0.1:9083"), {0: 40})
        memory.seal("sealed", {0: 40, 1: 7})
        memory.remember({0: 60}, {0: (2, 600)})
        memory.land({2: 600})
        memory.remember({0: 75, 1: 9}, {0: (2, 700), 1: (1, 30)})
        memory.complain("127.0.0.1:9092 refused the connection", "start Kafka")


def questions() -> None:
    """Print what this version answers."""
    from questlog.lake.ledger import read_ledger
    from questlog.pipeline import open_pipeline

    pipeline = open_pipeline(GAME)
    answers = {text: [list(map(str, row)) for row in pipeline.sql(text).rows()] for text in QUERIES}
    ledger = read_ledger(pipeline.project.catalog, pipeline.log.end())
    print(
        json.dumps(
            {"accepted": ledger.accepted, "waiting": ledger.waiting, "answers": answers}, ensure_ascii=False
        ).replace("], [", "],\n[")
    )


def run(step: str, *arguments: int) -> str:
    """Run one step in its own process; whatever it leaves open stays as after a kill."""
    command = [sys.executable, __file__, step, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main(target: Path) -> None:
    shutil.rmtree(HOME, ignore_errors=True)
    GAME.mkdir(parents=True)
    (GAME / "plan.toml").write_text(PLAN)
    (GAME / "questlog.toml").write_text('profile = "embedded"\nland_seconds = 1.5\n')
    for batch in range(9):  # small files of two days, enough to be merged
        run("append", batch * 12, 12)
        run("land")
    (GAME / "plan.toml").write_text(GROWN)
    (GAME / "players.jsonl").write_text('{"event_type":"join_guild","clan":"foxes","rank":1}\n' * 20)
    imports = [sys.executable, "-m", "questlog", "-C", str(GAME), "import", "players.jsonl"]
    subprocess.run(imports, check=True, cwd=GAME, stdout=subprocess.DEVNULL)
    run("append", 120, 24)
    run("land_half")
    run("append", 150, 24)
    run("append_side_by_side")
    for step in ("keys", "track", "spool"):
        run(step)
    with tarfile.open(f"{target}.tar.xz", "w:xz") as archive:
        for path in sorted(HOME.rglob("*")):
            archive.add(path, path.relative_to(HOME), recursive=False, filter=anonymous)
    Path(f"{target}.json").write_text(run("questions"))
    shutil.rmtree(HOME)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    steps = {f.__name__: f for f in (append, append_side_by_side, land, land_half, track, keys, spool, questions)}
    if sys.argv[1] in steps:
        steps[sys.argv[1]](*map(int, sys.argv[2:]))
    else:
        main(Path(sys.argv[1]))
