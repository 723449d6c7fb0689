"""The tables evolve with the plan, and no change of the plan loses a value."""

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from questlog.errors import PlanError, QuestlogError
from questlog.lake.evolve import table_columns
from questlog.lake.parquet import aligned
from questlog.lake.state import load_state
from questlog.pipeline import open_pipeline
from questlog.plan.load import parse_type
from questlog.record import encode_record


class Game:
    """A project with one event, `hit`, whose fields the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sent = 0

    def plan(self, **fields: Any) -> None:
        lines = [f"{name} = {self._toml(value)}" for name, value in fields.items()]
        (self.folder / "plan.toml").write_text("[events.hit.fields]\n" + "\n".join(lines) + "\n")

    @staticmethod
    def _toml(value: Any) -> str:
        if isinstance(value, str):
            return f'"{value}"'
        return "{ " + ", ".join(f"{k} = {v!r}" for k, v in value.items()) + " }"

    def send(self, *bodies: str) -> None:
        pipeline = open_pipeline(self.folder)
        for body in bodies:
            self.sent += 1
            event = ('{"event_type": "hit", ' + body[1:]).encode()
            pipeline.log.append([encode_record(event, id=f"e{self.sent}", received_ms=1_790_000_000_000 + self.sent)])
        pipeline.log.close()  # type: ignore[attr-defined]

    def land(self) -> None:
        with open_pipeline(self.folder).lander() as lander:
            lander.drain()

    def columns(self) -> dict[str, str]:
        table = load_state(open_pipeline(self.folder).project.catalog).tables["hit"]
        return {name: str(type_) for name, type_ in table_columns(table.schema).items()}

    def rows(self, *names: str) -> list[tuple[Any, ...]]:
        """Return columns of the table as PyIceberg reads them, in the order of sending."""
        data = self.folder / ".questlog"
        catalog = SqlCatalog("questlog", uri=f"sqlite:///{data}/catalog.db", warehouse=str(data / "lake"))
        stored = catalog.load_table(("questlog", "hit")).scan().to_arrow().to_pylist()
        return [tuple(row[n] for n in names) for row in sorted(stored, key=lambda row: row["received_time"])]

    def quarantined(self) -> int:
        tables = load_state(open_pipeline(self.folder).project.catalog).tables
        return tables["quarantine"].rows if "quarantine" in tables else 0


@pytest.fixture
def game(tmp_path: Path) -> Game:
    return Game(tmp_path)


def test_a_new_field_is_a_column_at_the_next_landing(game: Game) -> None:
    game.plan(damage="int")
    game.send('{"damage": 1}')
    game.land()
    game.plan(damage="int", weapon="string")
    game.send('{"damage": 2, "weapon": "axe"}')
    game.land()
    assert game.rows("damage", "weapon") == [(1, None), (2, "axe")]


def test_a_new_event_is_a_table_at_the_next_landing(game: Game) -> None:
    game.plan(damage="int")
    game.send('{"damage": 1}')
    game.land()
    with (game.folder / "plan.toml").open("a") as plan:
        plan.write('[events.miss.fields]\nby = "double"\n')
    pipeline = open_pipeline(game.folder)
    pipeline.log.append([encode_record(b'{"event_type": "miss", "by": 0.5}', id="m", received_ms=1_790_000_000_000)])
    game.land()
    assert load_state(pipeline.project.catalog).tables["miss"].rows == 1


@pytest.mark.parametrize(
    ("old", "new", "small", "large", "expected"),
    [
        ("int", "long", "7", str(2**40), [7, 2**40]),
        ("float", "double", "0.5", "1e300", [0.5, 1e300]),
        ("decimal(5,2)", "decimal(20,2)", '"1.25"', '"123456789.25"', [Decimal("1.25"), Decimal("123456789.25")]),
        ("list<int>", "list<long>", "[1]", f"[{2**40}]", [[1], [2**40]]),
        ("map<string,int>", "map<string,long>", '{"a": 1}', f'{{"b": {2**40}}}', [[("a", 1)], [("b", 2**40)]]),
        (
            "struct<hp:int>",
            "struct<hp:long,name:string>",
            '{"hp": 1}',
            f'{{"hp": {2**40}, "name": "x"}}',
            [{"hp": 1, "name": None}, {"hp": 2**40, "name": "x"}],
        ),
    ],
)
def test_a_wider_type_takes_effect_at_the_next_landing(
    game: Game, old: str, new: str, small: str, large: str, expected: list[Any]
) -> None:
    """Old files keep the old type, readers see the new one, and merging writes it."""
    game.plan(value=old)
    game.send(f'{{"value": {small}}}')
    game.land()
    game.plan(value=new)
    game.send(f'{{"value": {large}}}')
    game.land()
    assert [value for (value,) in game.rows("value")] == expected
    assert parse_type(game.columns()["value"]) == parse_type(new)
    merge_all(game)
    assert [value for (value,) in game.rows("value")] == expected
    assert game.quarantined() == 0


def merge_all(game: Game) -> None:
    """Merge all files of the table into one."""
    pipeline = open_pipeline(game.folder)
    with pipeline.lander() as lander:
        tables = lander._tables
        paths = dict(tables.state.execute("select path, manifest from questlog_files where table_name = 'hit'"))
        (day,) = tables.state.execute("select distinct day from questlog_files where table_name = 'hit'").fetchone()
        tables.replace("hit", paths, day, lambda: None)
    assert len(load_state(pipeline.project.catalog).tables["hit"].files) == 1


def test_a_renamed_field_keeps_its_column_and_senders_can_use_the_old_name(game: Game) -> None:
    game.plan(price="int")
    game.send('{"price": 1}')
    game.land()
    game.plan(cost={"type": "int", "aliases": ["price"]})
    game.send('{"cost": 2}', '{"price": 3}')
    game.land()
    assert [value for (value,) in game.rows("cost")] == [1, 2, 3]
    assert "price" not in game.columns()
    merge_all(game)
    assert [value for (value,) in game.rows("cost")] == [1, 2, 3]


def test_a_rename_and_a_widening_at_once_lose_nothing(game: Game) -> None:
    game.plan(price="int")
    game.send('{"price": 1}')
    game.land()
    game.plan(cost={"type": "long", "aliases": ["price"]})
    game.send(f'{{"cost": {2**40}}}')
    game.land()
    merge_all(game)
    assert [value for (value,) in game.rows("cost")] == [1, 2**40]


def test_an_old_and_a_new_plan_can_alternate(game: Game) -> None:
    """A rolling deployment: a lander with the old plan runs after one with the new plan."""
    old: dict[str, Any] = {"price": "int", "gone": "string"}
    new: dict[str, Any] = {"cost": {"type": "long", "aliases": ["price"]}, "fresh": "string"}
    for number in range(3):
        game.plan(**old)
        game.send(f'{{"price": {number}, "gone": "g{number}"}}')
        game.land()
        game.plan(**new)
        game.send(f'{{"cost": {2**40 + number}, "fresh": "f{number}"}}')
        game.land()
    assert game.rows("cost", "gone", "fresh") == [
        row for n in range(3) for row in ((n, f"g{n}", None), (2**40 + n, None, f"f{n}"))
    ]
    assert "price" not in game.columns()
    schemas = open_schema_count(game)
    assert schemas <= 3, "taking turns must not add a schema each time"


def open_schema_count(game: Game) -> int:
    data = game.folder / ".questlog"
    catalog = SqlCatalog("questlog", uri=f"sqlite:///{data}/catalog.db", warehouse=str(data / "lake"))
    return len(catalog.load_table(("questlog", "hit")).metadata.schemas)


def test_a_removed_field_keeps_its_data_and_can_be_restored(game: Game) -> None:
    game.plan(damage="int", weapon="string")
    game.send('{"damage": 1, "weapon": "axe"}')
    game.land()
    game.plan(damage="int")
    game.send('{"damage": 2, "weapon": "bow"}')
    game.land()
    assert game.rows("weapon", "_rescued") == [("axe", None), (None, '{"weapon":"bow"}')]
    game.plan(damage="int", weapon="string")
    game.send('{"damage": 3, "weapon": "club"}')
    game.land()
    assert [weapon for (weapon,) in game.rows("weapon")] == ["axe", None, "club"]


def test_a_former_name_can_be_used_for_another_field(game: Game) -> None:
    game.plan(price="int")
    game.send('{"price": 1}')
    game.land()
    game.plan(cost={"type": "int", "aliases": ["price"]})
    game.send('{"cost": 2}')
    game.land()
    game.plan(cost="int", price="string")
    game.send('{"cost": 3, "price": "high"}')
    game.land()
    assert game.rows("cost", "price") == [(1, None), (2, None), (3, "high")]


def test_a_former_name_can_return_with_another_type_once_its_column_is_gone(game: Game) -> None:
    game.plan(price="int")
    game.send('{"price": 1}')
    game.land()
    game.plan(cost={"type": "int", "aliases": ["price"]})
    game.send('{"cost": 2}')
    game.land()
    game.plan(price="string")
    game.send('{"price": "high"}')
    game.land()
    assert game.rows("cost", "price") == [(1, None), (2, None), (None, "high")]


def test_rows_with_a_column_that_the_table_lacks_are_refused() -> None:
    rows = pa.table({"price": [1]})
    with pytest.raises(QuestlogError, match="no column for price"):
        aligned(rows, pa.schema([pa.field("cost", pa.int64())]))
    assert aligned(rows, pa.schema([pa.field("cost", pa.int64())]), {"price": "cost"}).to_pylist() == [{"cost": 1}]


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [("string", "int", '"x"'), ("long", "int", "1"), ("decimal(9,2)", "decimal(9,3)", "1"), ("int", "list<int>", "1")],
)
def test_a_breaking_change_is_refused_at_start_with_a_hint(game: Game, old: str, new: str, value: str) -> None:
    game.plan(value=old)
    game.send(f'{{"value": {value}}}')
    game.land()
    game.plan(value=new)
    game.send(f'{{"value": {value}}}')
    with pytest.raises(PlanError) as refused:
        game.land()
    assert f"the type is now {new}, but column value of table hit holds {old}" in str(refused.value)
    assert "add a field with a new name" in str(refused.value)
    game.plan(value=old)
    game.land()
    assert len(game.rows("value")) == 2


def test_a_rename_that_also_breaks_the_type_is_refused(game: Game) -> None:
    game.plan(price="string")
    game.send('{"price": "1"}')
    game.land()
    game.plan(cost={"type": "int", "aliases": ["price"]})
    with pytest.raises(PlanError, match="column price of table hit holds string"):
        game.land()


def test_a_header_whose_column_has_another_type_is_refused_at_start(game: Game) -> None:
    (game.folder / "plan.toml").write_text("[headers]\nkeep = []\n[events.hit.fields]\nhost = 'int'\n")
    game.send('{"host": 1}')
    game.land()
    (game.folder / "plan.toml").write_text("[headers]\nkeep = ['Host']\n[events.hit]\n")
    with pytest.raises(
        PlanError, match=r"headers\.keep: the type is now string, but column host of table hit holds int"
    ):
        game.land()


def test_rolling_back_to_a_narrower_plan_keeps_the_wide_column(game: Game) -> None:
    game.plan(value="int")
    game.send('{"value": 1}')
    game.land()
    game.plan(value="long")
    game.send(f'{{"value": {2**40}}}')
    game.land()
    game.plan(value="int")
    game.send('{"value": 3}', f'{{"value": {2**41}}}')
    game.land()
    assert [value for (value,) in game.rows("value")] == [1, 2**40, 3]
    assert (game.columns()["value"], game.quarantined()) == ("long", 1)


def test_descriptions_follow_the_plan(game: Game) -> None:
    game.plan(value={"type": "int", "description": "Old words."})
    game.send('{"value": 1}')
    game.land()
    game.plan(value={"type": "int", "description": "New words."})
    game.send('{"value": 2}')
    game.land()
    schema = load_state(open_pipeline(game.folder).project.catalog).tables["hit"].schema
    assert "New words." in schema and "Old words." not in schema


def test_nested_columns_keep_their_types(game: Game) -> None:
    type_ = "struct<at:timestamp,tags:list<string>,by:map<string,decimal(9,2)>>"
    game.plan(value=type_)
    game.send('{"value": {"at": "2026-11-24T00:00:00.123Z", "tags": ["a"], "by": {"x": 1.5}}}')
    game.land()
    assert game.rows("value") == [
        (
            {
                "at": dt.datetime(2026, 11, 24, 0, 0, 0, 123_000),
                "tags": ["a"],
                "by": [("x", Decimal("1.50"))],
            },
        )
    ]
    assert game.columns()["value"] == str(parse_type(type_))
