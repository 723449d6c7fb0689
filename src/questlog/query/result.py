"""The rows of one statement, as tuples, Arrow, pandas or Polars."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyRelation

_BATCH = 2048
_NUMBERS = ("integer", "bigint", "double", "float", "decimal", "hugeint", "smallint", "tinyint")


class Result:
    """The rows that a statement returned, in memory: reading them again does not run it again."""

    def __init__(self, relation: DuckDBPyRelation) -> None:
        self._relation = relation

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._relation.columns)

    @property
    def types(self) -> list[str]:
        """DuckDB's names of the columns' types, in lower case."""
        return [str(type_).lower() for type_ in self._relation.types]

    def __len__(self) -> int:
        return len(self._relation)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if any("time zone" in type_ for type_ in self.types):  # DuckDB's own rows need pytz for these
            return iter(self.rows())
        return iter(self._relation.iter_rows(_BATCH))

    def __repr__(self) -> str:
        return f"<Result: {len(self)} rows of {', '.join(self.columns)}>"

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows as tuples."""
        if any("time zone" in type_ for type_ in self.types):
            columns = [column.to_pylist() for column in self.arrow().columns]
            return list(zip(*columns, strict=True))
        return list(self._relation.fetchall())

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows as dicts by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows()]

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self._relation.to_arrow_table()

    def df(self) -> Any:
        """Return the rows as a pandas frame."""
        return self._relation.df()

    def pl(self) -> Any:
        """Return the rows as a Polars frame."""
        return self._relation.pl()

    def texts(self, limit: int | None = None) -> Iterator[tuple[str | None, ...]]:
        """Return up to *limit* rows, with each value in DuckDB's text form; None is NULL."""
        shown = self._relation if limit is None else self._relation.limit(limit)
        return iter(shown.project("cast(columns(*) as varchar)").iter_rows(_BATCH))

    def jsons(self) -> Iterator[str]:
        """Return each row as one line of JSON: all digits of numbers, times in ISO 8601, NaN and infinity as null."""
        encode = msgspec.json.Encoder(decimal_format="number", enc_hook=str).encode
        names = self.columns
        for row in self:
            yield encode(dict(zip(names, map(_json_number, row), strict=True))).decode()

    def right_aligned(self) -> list[bool]:
        """Return for each column whether it holds numbers."""
        return [type_.lstrip("u").startswith(_NUMBERS) and not type_.endswith("]") for type_ in self.types]


def _json_number(value: Any) -> Any:
    """Return *value*; an integer of more than 64 bits becomes a decimal."""
    return Decimal(value) if type(value) is int and value.bit_length() > 63 else value
