"""`questlog sql`: one statement, or several from standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

FORMATS = ("table", "csv", "json", "ndjson", "parquet", "arrow")


@click.command()
@click.argument("statement", required=False)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="table", help="How to print rows.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.pass_obj
def sql(folder: Path, statement: str | None, format_: str, as_json: bool) -> None:
    """Run STATEMENT over everything acknowledged so far; without one, read it from standard input."""
    from questlog.pipeline import open_pipeline

    text = statement if statement is not None else sys.stdin.read()
    result = open_pipeline(folder).sql(text)
    write_rows(result.arrow(), "json" if as_json else format_, sys.stdout.buffer)


def write_rows(table: pa.Table, format_: str, out: Any) -> None:
    """Write *table* to the binary stream *out*."""
    if format_ == "csv":
        import pyarrow.csv

        flat = [_flat(column) for column in table.columns]
        pyarrow.csv.write_csv(pa.table(flat, names=table.column_names), out)
    elif format_ == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(table, out)
    elif format_ == "arrow":
        with pa.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    elif format_ in ("json", "ndjson"):
        import msgspec

        rows = [msgspec.json.encode(row, enc_hook=str) for row in table.to_pylist()]
        out.write(b"[" + b",\n ".join(rows) + b"]\n" if format_ == "json" else b"".join(r + b"\n" for r in rows))
    else:
        out.write(aligned(table).encode("utf-8", "backslashreplace"))
    out.flush()


def _flat(column: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.string())
    return column


def aligned(table: pa.Table) -> str:
    """Return *table* as text with columns in line, numbers to the right."""
    cells = [[_text(value) for value in column.to_pylist()] for column in table.columns]
    widths = [max([len(n), *map(len, c)]) for n, c in zip(table.column_names, cells, strict=True)]
    right = [
        pa.types.is_integer(f.type) or pa.types.is_floating(f.type) or pa.types.is_decimal(f.type) for f in table.schema
    ]

    def line(values: list[str]) -> str:
        return "  ".join(
            v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)
        ).rstrip()

    rows = [line(table.column_names), line(["-" * w for w in widths])]
    rows += [line([column[i] for column in cells]) for i in range(table.num_rows)]
    return "\n".join(rows) + f"\n({table.num_rows} row{'' if table.num_rows == 1 else 's'})\n"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).replace("\n", "\\n").replace("\x1b", "\\x1b")
