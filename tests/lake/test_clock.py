"""A clock that is set, forwards or backwards, neither deletes a file early nor keeps one forever."""

import datetime as dt
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from questlog.lake.clock import WatchedClock
from questlog.lake.iceberg import IcebergTables
from questlog.lake.maintenance import GRACE_SECONDS, Maintenance
from questlog.pipeline import open_pipeline
from questlog.plan.columns import table_schema
from questlog.plan.load import parse_plan
from questlog.record import encode_record

PLAN = "[events.step.fields]\n"
NOW = dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC).timestamp()
HOUR = 3600.0
YEARS = {"1970": 1000.0, "2026, a day early": NOW - 24 * HOUR, "2026, a day late": NOW + 24 * HOUR, "2100": 4.1e9}
wrong_clock = pytest.mark.parametrize("wrong", YEARS.values(), ids=YEARS)


class Machine:
    """A machine whose clocks the test turns; its landers are processes that commit and maintain one table."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.catalog, self.warehouse = folder / "catalog.db", folder / "lake"
        self.wall, self.monotonic = NOW, 5000.0
        self.ids = 0
        self.start_lander()
        # Iceberg's own times come from the same clock
        monkeypatch.setattr("questlog.lake.version.time.time_ns", lambda: int(self.wall * 1e9))

    def start_lander(self) -> None:
        self.tables = IcebergTables(self.catalog, self.warehouse, clock=lambda: self.wall)
        self.maintenance = Maintenance(
            self.tables, lambda: None, clock=lambda: self.wall, monotonic=lambda: self.monotonic
        )

    def restart_lander(self) -> None:
        self.tables.close()
        self.start_lander()

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds

    def land(self, times: int = 1) -> None:
        schema = table_schema(parse_plan(PLAN), "step")
        day = dt.datetime(2026, 11, 28)
        for _ in range(times):
            self.ids += 1
            row = {"event_type": "step", "event_time": day, "received_time": day, "event_id": f"e{self.ids}"}
            self.tables.commit("step", pa.Table.from_pylist([row], schema=schema), {0: self.ids}, "v1")

    def maintain(self) -> None:
        while self.maintenance.step():
            pass

    def garbage(self) -> int:
        """Return how many files wait for their deletion; every one of them is still there."""
        with closing(sqlite3.connect(self.catalog)) as connection:
            paths = [path for (path,) in connection.execute("select path from questlog_garbage")]
        assert all(Path(path).exists() for path in paths)
        return len(paths)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def unneeded(machine: Machine) -> int:
    """Return how many waiting files no kept snapshot needs, so that only their age keeps them."""
    version = machine.tables.version("step")
    assert version is not None
    oldest = min(snapshot.sequence_number or 0 for snapshot in version.metadata.snapshots)
    query = "select count(*) from questlog_garbage where last_sequence < ?"
    return int(machine.tables.state.execute(query, (oldest,)).fetchone()[0])


def test_replaced_files_are_deleted_after_the_grace_period(machine: Machine) -> None:
    machine.maintain()
    machine.land(24)
    machine.maintain()
    waiting = machine.garbage()
    assert waiting > 20
    machine.pass_time(GRACE_SECONDS - 1)
    machine.maintain()
    assert machine.garbage() == waiting
    machine.pass_time(2)
    machine.maintain()
    assert unneeded(machine) == 0


@wrong_clock
@pytest.mark.parametrize("restarts", [False, True], ids=["one lander", "a new lander"])
def test_a_landing_under_a_wrong_clock_keeps_no_file_forever(machine: Machine, wrong: float, restarts: bool) -> None:
    machine.land(2)
    machine.maintain()
    machine.wall, right = wrong, machine.wall
    if restarts:
        machine.restart_lander()
    machine.land(14)
    machine.maintain()
    machine.pass_time(60)
    machine.wall = right + 60
    if restarts:
        machine.restart_lander()
    machine.land(14)
    machine.maintain()
    machine.pass_time(2 * GRACE_SECONDS)
    machine.maintain()
    assert unneeded(machine) == 0


@wrong_clock
@pytest.mark.parametrize("restarts", [False, True], ids=["one lander", "a new lander"])
def test_a_clock_that_is_set_deletes_no_file_before_the_grace_period(
    machine: Machine, wrong: float, restarts: bool
) -> None:
    """A query that began a second ago may read a file that was replaced since."""
    machine.maintain()
    machine.land(24)
    machine.maintain()
    waiting = machine.garbage()
    machine.wall, right = wrong, machine.wall
    for seconds in (1, GRACE_SECONDS - 100):
        machine.pass_time(seconds)
        if restarts:
            machine.restart_lander()
        machine.maintain()
        assert machine.garbage() >= waiting
    machine.wall = right + GRACE_SECONDS - 99  # and back again
    machine.maintain()
    assert machine.garbage() >= waiting
    machine.pass_time(GRACE_SECONDS + 1)
    machine.maintain()
    assert unneeded(machine) == 0


def test_files_dated_in_the_future_by_0_1_0_are_deleted(machine: Machine) -> None:
    machine.land(24)
    machine.tables.state.execute("update questlog_garbage set since_ms = ?", (int(YEARS["2100"] * 1000),))
    machine.maintain()
    machine.pass_time(GRACE_SECONDS + 1)
    machine.maintain()
    assert unneeded(machine) == 0


def test_a_boot_is_no_reason_to_wait(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No query survives it; the monotonic clock starts from zero."""
    machine.maintain()
    machine.land(24)
    machine.maintain()
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr("questlog.lake.clock._BOOT_ID", tmp_path / "boot_id")
    machine.wall, machine.monotonic = machine.wall + GRACE_SECONDS + 1, 10.0
    machine.restart_lander()
    machine.maintain()
    assert unneeded(machine) == 0


def test_a_clock_that_is_adjusted_is_not_one_that_was_set(machine: Machine) -> None:
    clock = WatchedClock(machine.tables.state, None, wall=lambda: machine.wall, monotonic=lambda: machine.monotonic)
    assert clock.steady_ms() is None
    machine.pass_time(HOUR)
    machine.wall += 59
    assert clock.steady_ms() is None
    machine.wall += 2
    assert clock.steady_ms() == 0
    machine.pass_time(10)
    assert clock.steady_ms() == 10_000


def test_events_logged_in_the_future_forget_no_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry would otherwise be counted twice."""
    (tmp_path / "plan.toml").write_text(PLAN)
    pipeline = open_pipeline(tmp_path)
    now_ms, body = time.time_ns() // 1_000_000, b'{"event_type": "step"}'

    def land(id_: str, *, logged: float | None = None) -> int:
        with monkeypatch.context() as patch:
            if logged is not None:
                patch.setattr("questlog.log.sqlite.partition.time.time_ns", lambda: int(logged * 1e9))
            pipeline.log.append([encode_record(body, id=id_, received_ms=now_ms, client_id=True)])
        with pipeline.lander() as lander:
            return lander.drain().duplicates

    assert [land("a"), land("b", logged=YEARS["2100"]), land("a"), land("b")] == [0, 0, 1, 1]
    pipeline.log.close()
