"""Benchmark the CPU seconds from the log to committed tables against DuckDB's COPY, in the same run.

Ours reads records from the log, checks them against a plan, splits event types, keeps headers and the bytes as sent,
and commits fsynced Iceberg tables. The peers write zstd Parquet from NDJSON files with declared columns: `plain` reads
the events once and writes one file of the sender's fields alone; `same columns` reads the records and writes one file
per event type with the columns of our tables. Both skip bad events silently.
Run: .venv/bin/python bench/shape.py [--events 300000] [--rounds 5] [--save]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import common
import duckdb

from questlog.land.loop import LandingLoop
from questlog.land.reader import read_batch
from questlog.log import Position
from questlog.log.sqlite import SqliteLog
from questlog.plan import Event, Plan, Type
from questlog.plan.load import parse_plan
from questlog.record import encode_record, new_id
from questlog.shape import shape

PLAN = """
[game]
name = "bench"

[events.purchase_sword]
table = "sword_purchases"
[events.purchase_sword.fields]
sword = { type = "string", required = true, max_length = 64 }
price = { type = "decimal(12,2)", min = 0 }
currency = { enum = ["gold", "usd"], default = "gold" }

[events.join_guild.fields]
guild = { type = "string", max_length = 64 }

[events.begin_level.fields]
level = { type = "int", required = true, min = 0 }

[events.complete_level.fields]
level = { type = "int", required = true, min = 0 }
won = "bool"
closeness = "double"
amplitude_left = "double"
amplitude_right = "double"
wavelength_left = "double"
wavelength_right = "double"

[events.slider_move_release.fields]
level = { type = "int", required = true, min = 0 }
slider = { enum = ["AMPLITUDE", "WAVELENGTH", "OFFSET"] }
wave = { enum = ["left", "right"] }
begin_val = "double"
end_val = "double"
begin_closeness = "double"
end_closeness = "double"
direction_shifts = { type = "int", min = 0 }
drag_length_ticks = { type = "int", min = 0 }
"""
SHARES = {"purchase_sword": 15, "join_guild": 10, "begin_level": 20, "complete_level": 20, "slider_move_release": 35}
START_MS = 1_790_000_000_000
GROUP = 200
"""Events per group commit in the log, as on a busy collector."""
SQL_TYPES = {"string": "VARCHAR", "bool": "BOOLEAN", "int": "INTEGER", "long": "BIGINT", "double": "DOUBLE"}


def make_events(count: int) -> Iterator[tuple[dict[str, Any], dict[str, str], int]]:
    """Yield events with the cardinalities of a real game, each with headers and received time."""
    chance = random.Random(7)
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=count)
    agents = [f"Mozilla/5.0 (X11; Linux x86_64; rv:{n}.0) Gecko/20100101 Firefox/{n}.0" for n in range(100, 140)]
    for number, kind in enumerate(kinds):
        received = START_MS + number * 2
        player = chance.randrange(5_000)
        seconds, ms = divmod(received - chance.randrange(500), 1000)
        event: dict[str, Any] = {
            "event_type": kind,
            "event_time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03}Z",
            "player_id": f"player-{player}",
            "session_id": f"{player:x}-{number // 50_000}",
            "sequence": number // 20,
            **FIELDS[kind](chance),
        }
        yield event, {"Host": "play.example.com", "Accept": "*/*", "User-Agent": agents[player % 40]}, received


def _value(chance: random.Random) -> float:
    return round(chance.uniform(-10, 10), chance.choice((1, 2, 14)))


FIELDS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "purchase_sword": lambda c: {
        "sword": f"sword of {c.randrange(40)} winds", "price": c.randrange(100_000) / 100,
        **({"currency": c.choice(("gold", "usd"))} if c.random() < 0.7 else {}),
    },
    "join_guild": lambda c: {"guild": f"guild {c.randrange(300)}"},
    "begin_level": lambda c: {"level": c.randrange(60)},
    "complete_level": lambda c: {
        "level": c.randrange(60), "won": c.random() < 0.6, "closeness": _value(c), "amplitude_left": _value(c),
        "amplitude_right": _value(c), "wavelength_left": _value(c), "wavelength_right": _value(c),
    },
    "slider_move_release": lambda c: {
        "level": c.randrange(60), "slider": c.choice(("AMPLITUDE", "WAVELENGTH", "OFFSET")),
        "wave": c.choice(("left", "right")), "begin_val": _value(c), "end_val": _value(c),
        "begin_closeness": _value(c), "end_closeness": _value(c), "direction_shifts": c.randrange(5),
        "drag_length_ticks": c.randrange(400),
    },
}  # fmt: skip


def fill(folder: Path, count: int) -> None:
    """Write the same events three times: the log, NDJSON of events, NDJSON of records."""
    log = SqliteLog(folder / "log")
    group: list[bytes] = []
    with (folder / "events.ndjson").open("wb") as events, (folder / "records.ndjson").open("wb") as records:
        for event, headers, received in make_events(count):
            body = json.dumps(event, separators=(",", ":")).encode()
            record = encode_record(body, id=new_id(), received_ms=received, headers=headers)
            events.write(body + b"\n")
            records.write(record + b"\n")
            group.append(record)
            if len(group) == GROUP:
                log.append(group)
                group = []
    if group:
        log.append(group)
    log.close()


# -- the contenders -------------------------------------------------------------------------------


def land(folder: Path, plan: Plan, count: int, batch: int) -> float:
    """Return the CPU seconds that the lander takes for the whole log."""
    out = folder / "out"
    log = SqliteLog(folder / "log")
    with LandingLoop(
        log, lambda: plan, out / "catalog.db", out / "lake", batch_records=batch, keep_log_hours=1e6
    ) as it:
        started = time.process_time()
        landed = it.drain()
        spent = time.process_time() - started
    log.close()
    assert landed.rows == {name: n for name, n in landed.rows.items() if name in plan.tables}, landed
    assert sum(landed.rows.values()) == count == landed.records
    return spent


def copy_plain(folder: Path, plan: Plan, count: int) -> float:
    """Return the CPU seconds of one COPY of the events as sent."""
    columns = {"event_type": "VARCHAR", "event_time": "TIMESTAMP", "player_id": "VARCHAR", "session_id": "VARCHAR"}
    columns["sequence"] = "BIGINT"
    for event in plan.events.values():
        columns |= sql_columns(event)
    source = f"read_json('{folder}/events.ndjson', format='newline_delimited', columns={columns})"
    with duckdb.connect() as connection:
        started = time.process_time()
        connection.execute(f"copy (select * from {source}) to '{folder}/out/plain.parquet' (compression zstd)")
        spent = time.process_time() - started
        assert rows_of(connection, f"{folder}/out/plain.parquet") == count
    return spent


def copy_same(folder: Path, plan: Plan, count: int) -> float:
    """Return the CPU seconds of writing one file per event type with the columns of our tables."""
    outer = {"id": "VARCHAR", "received": "BIGINT", "headers": "JSON", "event": "JSON"}
    source = f"read_json('{folder}/records.ndjson', format='newline_delimited', columns={outer})"
    with duckdb.connect() as connection:
        started = time.process_time()
        connection.execute(
            f"create temp table records as select *, from_json(event, '{json.dumps(dict(event_type='VARCHAR'))}')"
            f".event_type as kind from {source}"
        )
        for event in plan.events.values():
            connection.execute(f"copy ({same_query(event, plan)}) to '{target(folder, event)}' (compression zstd)")
        spent = time.process_time() - started
        assert sum(rows_of(connection, target(folder, event)) for event in plan.events.values()) == count
    return spent


def same_query(event: Event, plan: Plan) -> str:
    """Return the query that gives the rows of the event's table."""
    names = {"event_time": "TIMESTAMP", "player_id": "VARCHAR", "session_id": "VARCHAR", "sequence": "BIGINT"}
    body = json.dumps({**names, **sql_columns(event)})
    heads = json.dumps({name: "VARCHAR" for name in plan.headers})
    kept = ", ".join(f"h['{name}'] as {name.lower().replace('-', '_')}" for name in plan.headers)
    declared = ", ".join(f"e.{name}" for name in sql_columns(event))
    return (
        f"select id as event_id, kind as event_type, e.event_time, make_timestamp(received * 1000) as received_time,"
        f" e.player_id, e.session_id, e.sequence, {kept}, {declared}, null::varchar as _rescued,"
        f" event::varchar as raw_event, '{plan.version}' as plan_version from (select *,"
        f" from_json(event, '{body}') as e, from_json(headers, '{heads}') as h"
        f" from records where kind = '{event.name}')"
    )


def target(folder: Path, event: Event) -> str:
    return f"{folder}/out/same-{event.name}.parquet"


def sql_columns(event: Event) -> dict[str, str]:
    return {field.name: sql_type(field.type) for field in event.fields}


def sql_type(type_: Type) -> str:
    return f"DECIMAL({type_.precision},{type_.scale})" if type_.kind == "decimal" else SQL_TYPES[type_.kind]


def rows_of(connection: duckdb.DuckDBPyConnection, path: str) -> int:
    row = connection.execute(f"select count(*) from read_parquet('{path}')").fetchone()
    assert row is not None
    return int(row[0])


def check_same(folder: Path, plan: Plan) -> None:
    """Check that both wrote the same values; the peer has no defaults, and its JSON rewrites numbers in `raw_event`."""
    for event in plan.events.values():
        defaults = {field.name: field.default for field in event.fields if field.default is not None}
        filled = ", ".join(f"coalesce({name}, '{default}') as {name}" for name, default in defaults.items())
        peer = f"select * exclude raw_event {f'replace ({filled})' if filled else ''} from '{target(folder, event)}'"
        with duckdb.connect() as connection:
            names = [column[0] for column in connection.execute(f"{peer} limit 0").description]
            files = f"{folder}/out/lake/questlog/{event.table}/data/**/*.parquet"
            ours = f"select {', '.join(names)} from read_parquet('{files}')"
            difference = connection.execute(f"select count(*) from ({ours} except all {peer})").fetchone()
            assert difference == (0,), (event.name, difference)


# -- the run --------------------------------------------------------------------------------------


def stages(folder: Path, plan: Plan, batch: int) -> dict[str, float]:
    """Return the CPU seconds of reading the log and of shaping, without the lake."""
    log = SqliteLog(folder / "log")
    position: Position = {}
    spent = {"read": 0.0, "shape": 0.0}
    while True:
        started = time.process_time()
        records = read_batch(log, position, batch)
        read = time.process_time()
        spent["read"] += read - started
        if not records:
            break
        shape(records.entries, plan)
        spent["shape"] += time.process_time() - read
        position = records.through
    log.close()
    return spent


def run(count: int, rounds: int, batch: int, folder: Path) -> dict[str, Any]:
    plan = parse_plan(PLAN)
    fill(folder, count)
    sizes = {name: (folder / name).stat().st_size for name in ("events.ndjson", "records.ndjson")}
    spent: dict[str, list[float]] = {"questlog": [], "plain": [], "same columns": [], "read": [], "shape": []}
    for number in range(rounds + 1):
        fresh(folder / "out")
        spent_now = {
            "plain": copy_plain(folder, plan, count),
            "questlog": land(folder, plan, count, batch),
            "same columns": copy_same(folder, plan, count),
            **stages(folder, plan, batch),
        }
        print(number, {name: f"{seconds:.2f}" for name, seconds in spent_now.items()}, flush=True)
        if number == 0:
            check_same(folder, plan)
        else:  # the first round warms caches and imports
            for name, seconds in spent_now.items():
                spent[name].append(seconds)
    bytes_out = sum(p.stat().st_size for p in (folder / "out" / "lake").rglob("*.parquet"))
    return report(count, batch, spent, {**{n: s // count for n, s in sizes.items()}, "parquet": bytes_out // count})


def fresh(folder: Path) -> None:
    """Empty the folder of results, and the memory of the round before."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir()
    gc.collect()


def report(count: int, batch: int, spent: Mapping[str, list[float]], sizes: Mapping[str, int]) -> dict[str, Any]:
    middle = {name: statistics.median(times) for name, times in spent.items()}
    middle["write and commit"] = middle["questlog"] - middle["read"] - middle["shape"]
    return {
        "events": count,
        "events per batch": batch,
        "bytes per event": dict(sizes),
        "cpu us per event": {name: round(seconds / count * 1e6, 2) for name, seconds in middle.items()},
        "events per cpu second": {
            name: round(count / middle[name]) for name in ("questlog", "plain", "same columns")
        },
        "rate against duckdb copy": {
            name: round(statistics.median(p / q for p, q in zip(spent[name], spent["questlog"], strict=True)), 3)
            for name in ("plain", "same columns")
        },
        "rounds": {name: [round(seconds, 3) for seconds in times] for name, times in spent.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=50_000, help="events the lander takes at a time")
    parser.add_argument("--save", action="store_true", help="write bench/results/shape.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="questlog-bench-") as name:
        result = run(options.events, options.rounds, options.batch, Path(name))
    if options.save:
        rates = result["rate against duckdb copy"]
        asked = "events shaped and landed per CPU-second against DuckDB's `COPY`"
        goals = [
            common.Goal(f"{asked} of the events alone", 0.5, rates["plain"]),
            common.Goal(f"{asked} of the same columns", 0.5, rates["same columns"]),
        ]
        common.save("shape", result, goals)
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
