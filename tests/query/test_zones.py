"""Time has one zone: a question about the present has the same answer wherever the shell or the process runs."""

import csv
import datetime as dt
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from questlog.pipeline import open_pipeline
from questlog.record import encode_record, new_id

PLAN = '[events.hit.fields]\nname = "string"\n'
ZONES = (
    "UTC", "Asia/Shanghai", "Asia/Kolkata", "America/Los_Angeles", "Europe/Berlin",
    # at any hour, the local date differs from that of UTC in one of these two
    "Pacific/Kiritimati", "Pacific/Pago_Pago",
)  # fmt: skip

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
"""Events relative to the present: name -> age in milliseconds."""
LANDED = {"hours ago": 3 * HOUR_MS + 5 * MINUTE_MS, "days ago": 50 * HOUR_MS}
TAIL = {"just now": 2 * MINUTE_MS}
FIXED_LANDED, FIXED_TAIL = "2026-03-01T23:30:00Z", "2026-03-28T00:30:00Z"
"""The second is a day before the clocks change in Berlin."""

ISO = "'%Y-%m-%dT%H:%M:%S'"
QUESTIONS: dict[str, tuple[str, Any]] = {
    "the last ten minutes": ("select count(*) from hit where event_time > now() - interval 10 minute", 1),
    "the last hour, portable": (
        "select count(*) from hit where event_time > current_timestamp - interval '1' hour", 1,
    ),
    "the last four hours": ("select count(*) from hit where event_time > localtimestamp - interval 4 hour", 2),
    "no event is in the future": ("select count(*) from hit where event_time > now()", 0),
    "the age in minutes": ("select date_diff('minute', event_time, now()) < 5 from hit where name = 'just now'", True),
    "the age in seconds": (
        "select epoch(now()) - epoch(event_time) between 110 and 300 from hit where name = 'just now'", True,
    ),
    "the difference in hours": (
        "select extract(hour from now() - event_time) from hit where name = 'hours ago'", 3,
    ),
    "two days ago": (
        "select count(*) from hit where event_time between now() - interval 51 hour and now() - interval 49 hour", 1,
    ),
    "the present as a timestamp": ("select epoch_us(now()::timestamp) = epoch_us(now())", True),
    "the local present is in UTC": ("select epoch_us(localtimestamp) = epoch_us(now())", True),
    "today": ("select today() = make_timestamp(epoch_us(now()))::date", True),
    "the current date": ("select current_date = make_timestamp(epoch_us(now()))::date", True),
    "the date of the present": ("select now()::date = make_timestamp(epoch_us(now()))::date", True),
    "the time of day": ("select localtime = make_timestamp(epoch_us(now()))::time", True),
    "the start of the day": (
        "select epoch_us(date_trunc('day', now())) = epoch_us(date_trunc('day', make_timestamp(epoch_us(now()))))",
        True,
    ),
    "the hour of the present": (
        "select extract(hour from now()) = extract(hour from make_timestamp(epoch_us(now())))", True,
    ),
    "the age from today": (
        "select age(event_time) = age(make_timestamp(epoch_us(now()))::date::timestamp, event_time) from hit"
        " where name = 'fixed, landed'", True,
    ),
    "the present as text": (
        f"select strftime(now(), {ISO}) = strftime(make_timestamp(epoch_us(now())), {ISO})", True,
    ),
    "an event with a zone, as text": (
        "select event_time::timestamptz::varchar from hit where name = 'fixed, landed'", "2026-03-01 23:30:00+00",
    ),
    "an event with a zone, formatted": (
        "select strftime(event_time::timestamptz, '%d %H:%M') from hit where name = 'fixed, landed'", "01 23:30",
    ),
    "the day of an event with a zone": (
        "select event_time::timestamptz::date::varchar from hit where name = 'fixed, landed'", "2026-03-01",
    ),
    "the hour of an event with a zone": (
        "select extract(hour from event_time::timestamptz) from hit where name = 'fixed, tail'", 0,
    ),
    "a day later, over the change of clocks": (
        "select epoch(event_time::timestamptz + interval 2 day)::bigint - epoch(event_time)::bigint from hit"
        " where name = 'fixed, tail'", 172_800,
    ),
    "events since a date with a zone": (
        "select count(*) from hit where event_time >= timestamptz '2026-03-28 00:30:00' and name = 'fixed, tail'", 1,
    ),
    "events since a text with an offset": (
        "select count(*) from hit where event_time = '2026-03-02 07:30:00+08'::timestamptz", 1,
    ),
    "the seconds of an event with a zone": (
        "select epoch(event_time::timestamptz)::bigint from hit where name = 'fixed, landed'", 1_772_407_800,
    ),
    "events by day with a zone": (
        "select date_trunc('day', event_time::timestamptz)::varchar from hit where name = 'fixed, landed'",
        "2026-03-01 00:00:00+00",
    ),
    "events by day in a named zone": (
        "select (event_time at time zone 'UTC' at time zone 'Asia/Shanghai')::date::varchar from hit"
        " where name = 'fixed, landed'", "2026-03-02",
    ),
    "the zone of the session": ("select current_setting('TimeZone')", "UTC"),
}  # fmt: skip
VALUES = "select event_time, event_time::timestamptz as zoned from hit where name like 'fixed%' order by event_time"
INSTANTS = [dt.datetime(2026, 3, 1, 23, 30, tzinfo=dt.UTC), dt.datetime(2026, 3, 28, 0, 30, tzinfo=dt.UTC)]

ASK = """
import datetime, json, sys
import questlog
questions, values = json.loads(sys.stdin.read())
project = questlog.open(sys.argv[1])
answers = {name: project.sql(text).rows() for name, text in questions.items()}
zone = datetime.timezone(datetime.timedelta(hours=8))
landed = datetime.datetime(2026, 3, 2, 7, 30, tzinfo=zone)
result = project.sql(values)
print(json.dumps({
    "answers": answers,
    "by parameter": project.sql("select name from hit where event_time = ?", [landed]).rows(),
    "arrow": [str(each) for each in result.arrow().schema.types],
    "pandas": [str(each) for each in result.df().dtypes],
    "pandas values": [[str(each) for each in row] for row in result.df().itertuples(index=False)],
    "rows": [[each.isoformat() for each in row] for row in result.rows()],
    "json": list(result.jsons()),
    "texts": list(result.texts()),
}))
"""
QUESTLOG = Path(sys.executable).with_name("questlog")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with three events landed and two in the tail."""
    folder = tmp_path_factory.mktemp("zones")
    (folder / "plan.toml").write_text(PLAN)
    now_ms = time.time_ns() // 1_000_000

    def send(ages: dict[str, int], fixed: tuple[str, str]) -> None:
        times: list[tuple[str, int | str]] = [(name, now_ms - age_ms) for name, age_ms in ages.items()]
        bodies = [
            json.dumps({"event_type": "hit", "name": name, "event_time": event_time}).encode()
            for name, event_time in [*times, fixed]
        ]
        pipeline.log.append([encode_record(body, id=new_id(), received_ms=now_ms, headers={}) for body in bodies])

    pipeline = open_pipeline(folder)
    send(LANDED, ("fixed, landed", FIXED_LANDED))
    with pipeline.lander() as lander:
        lander.drain()
    send(TAIL, ("fixed, tail", FIXED_TAIL))
    pipeline.close()
    pipeline.log.close()  # type: ignore[attr-defined]
    return folder


def run(zone: str, project: Path, *words: str | Path, text: str = "") -> str:
    """Run a command in *zone* and return what it prints."""
    done = subprocess.run(
        words, input=text, capture_output=True, text=True, cwd=project, env={**os.environ, "TZ": zone}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("zone", ZONES)
def test_python_answers_every_question_the_same_in_every_zone(zone: str, project: Path) -> None:
    texts = {name: text for name, (text, _) in QUESTIONS.items()}
    answered = json.loads(run(zone, project, sys.executable, "-c", ASK, str(project), text=json.dumps([texts, VALUES])))
    assert {name: [[value]] for name, (_, value) in QUESTIONS.items()} == answered["answers"]
    assert answered["by parameter"] == [["fixed, landed"]]
    assert answered["arrow"] == ["timestamp[us]", "timestamp[us, tz=UTC]"]
    assert answered["pandas"] == ["datetime64[us]", "datetime64[us, UTC]"]
    naive = [each.replace(tzinfo=None) for each in INSTANTS]
    pairs = list(zip(naive, INSTANTS, strict=True))
    assert [[each.isoformat() for each in pair] for pair in pairs] == answered["rows"]
    assert [[str(each) for each in pair] for pair in pairs] == answered["pandas values"]
    assert [[f"{each}", f"{each}+00"] for each in naive] == answered["texts"]
    assert [{"event_time": f"{each.isoformat()}", "zoned": f"{each.isoformat()}Z"} for each in naive] == [
        json.loads(line) for line in answered["json"]
    ]


@pytest.mark.parametrize("zone", ZONES[:5])
def test_the_command_line_answers_every_question_the_same_in_every_zone(zone: str, project: Path) -> None:
    statement = " union all ".join(f"select '{name}', ({text})::varchar" for name, (text, _) in QUESTIONS.items())
    rows = csv.reader(run(zone, project, QUESTLOG, "sql", "--format", "csv", statement).splitlines())
    next(rows)  # the column names
    expected = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, (_, value) in QUESTIONS.items()
    }
    assert expected == dict(rows)


def test_every_printed_form_is_the_same_in_every_zone(project: Path) -> None:
    """The shell, the formats for programs, the last events and the export print UTC."""
    commands = [("sql", "--format", form, VALUES) for form in ("table", "csv", "json", "ndjson")]
    commands += [("sql", "-x", VALUES), ("tail", "--no-follow"), ("tail", "--no-follow", "--json")]
    for words in commands:
        printed = {run(zone, project, QUESTLOG, *words) for zone in ("UTC", "Asia/Shanghai")}
        assert len(printed) == 1, (words, printed)


class PrestoPages(BaseHTTPRequestHandler):
    """A server that answers every statement with one time, on the second page."""

    zones: list[str | None]

    def do_POST(self) -> None:
        self._answer({"nextUri": "http://ignored/v1/statement/1"})

    def do_GET(self) -> None:
        column = {"name": "at", "type": "timestamp with time zone"}
        self._answer({"columns": [column], "data": [["2026-03-02 07:30:00.000 Asia/Shanghai"]]})

    def _answer(self, page: dict[str, Any]) -> None:
        self.zones.append(self.headers.get("X-Presto-Time-Zone") or self.headers.get("X-Trino-Time-Zone"))
        body = json.dumps(page).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def presto() -> Iterator[ThreadingHTTPServer]:
    PrestoPages.zones = []
    with ThreadingHTTPServer(("127.0.0.1", 0), PrestoPages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


ASK_PRESTO = """
import sys
from questlog.query.presto import open_engine
result = open_engine({"url": sys.argv[1]}, "game", lambda: None).run("select now() as at")
print(result.arrow().schema.field("at").type, result.df().dtypes["at"], *result.rows()[0], *next(result.texts()))
"""


@pytest.mark.parametrize(("scheme", "zone"), [("http", "Asia/Shanghai"), ("trino+http", "America/Los_Angeles")])
def test_presto_and_trino_answer_in_utc_in_every_zone(
    scheme: str, zone: str, presto: ThreadingHTTPServer, tmp_path: Path
) -> None:
    url = f"{scheme}://127.0.0.1:{presto.server_port}"
    printed = run(zone, tmp_path, sys.executable, "-c", ASK_PRESTO, url)
    utc = "2026-03-01 23:30:00"
    assert f"timestamp[us, tz=UTC] datetime64[us, UTC] {utc}+00:00 {utc}+00\n" == printed
    assert PrestoPages.zones == ["UTC", "UTC"], "every request names the session's zone"
