"""One row of `Settings` is a whole setting: the file and the environment set it, and the reference documents it."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest

from questlog.errors import QuestlogError
from questlog.settings import Settings, load_settings

SCALARS = [pytest.param(row, id=row.name) for row in fields(Settings) if row.default is not MISSING]
TABLES = [pytest.param(row, id=row.name) for row in fields(Settings) if row.default is MISSING]


def another(row: Field[Any]) -> Any:
    """Return a value of the row's type that is not its default."""
    return f"/other/{row.name}" if isinstance(row.default, str) else row.default + 7


@pytest.mark.parametrize("row", [*SCALARS, *TABLES])
def test_every_setting_has_a_description(row: Field[Any]) -> None:
    assert row.metadata["meaning"].endswith(".")


@pytest.mark.parametrize("row", SCALARS)
def test_the_file_sets_a_setting_and_the_environment_overrides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Field[Any]
) -> None:
    file, value = tmp_path / "questlog.toml", another(row)
    file.write_text(f"{row.name} = {value!r}\n")
    prefix = "file://" if row.name == "warehouse" else ""  # a bare path would mean another disk on each server
    expected = f"{prefix}{value}" if prefix else value
    assert getattr(load_settings(file), row.name) == expected
    file.write_text(f"{row.name} = {row.default!r}\n")
    monkeypatch.setenv(f"QUESTLOG_{row.name.upper()}", str(value))
    assert getattr(load_settings(file), row.name) == expected


@pytest.mark.parametrize("row", TABLES)
def test_the_file_and_the_environment_set_the_keys_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Field[Any]
) -> None:
    file = tmp_path / "questlog.toml"
    file.write_text(f'[{row.name}]\n"one.key" = "a"\n"two.key" = "b"\n')
    monkeypatch.setenv(f"QUESTLOG_{row.name.upper()}_TWO_KEY", "c")
    assert getattr(load_settings(file), row.name) == {"one.key": "a", "two.key": "c"}


def test_an_unknown_setting_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "questlog.toml").write_text("land_second = 1\n")
    with pytest.raises(QuestlogError, match="did you mean land_seconds"):
        load_settings(tmp_path / "questlog.toml")
