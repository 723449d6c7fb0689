"""Prints rows: as a table that fits the terminal, or as CSV, JSON, Parquet or Arrow for programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from questlog.printable import clean, drawing

if TYPE_CHECKING:
    from questlog.query.result import Result

FORMATS = ("table", "csv", "json", "ndjson", "parquet", "arrow")
BINARY = ("parquet", "arrow")
_NARROWEST = 12
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
_Row = Sequence[str | None]
_NUMBER = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]inf(inity)?"


def write_rows(
    result: Result,
    format_: str,
    out: BinaryIO,
    *,
    width: int | None = None,
    max_rows: int = 0,
    color: bool = False,
    expanded: bool | None = None,
    safe: bool = False,
) -> None:
    """Write *result* to *out*. A table has at most *max_rows* rows (0: all), and fits *width* columns if given.

    *expanded* prints one line per value; None does so if the columns do not fit.
    *safe* keeps a spreadsheet from taking a CSV cell for a formula.
    """
    if format_ == "table":
        rows = list(result.texts(max_rows or None))
        text = table_text(result.columns, rows, result.right_aligned(), width=width, color=color, expanded=expanded)
        text += _count_line(len(rows), len(result))
        drawing(out).write(text.encode("utf-8", "backslashreplace"))
    elif format_ == "csv":
        _write_csv(result, out, _safe_cell if safe else _csv_cell)
    elif format_ == "json":
        _write_joined(out, b"[", (line.encode() for line in result.jsons()), b",\n ", b"]\n")
    elif format_ == "ndjson":
        for line in result.jsons():
            out.write(line.encode() + b"\n")
    elif format_ == "parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(result.arrow(), out, compression="zstd")
    else:
        import pyarrow

        table = result.arrow()
        with pyarrow.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    out.flush()


def _count_line(shown: int, total: int) -> str:
    if shown < total:
        return f"({shown:,} of {total:,} rows; --max-rows 0 shows all)\n"
    return f"({total:,} row{'' if total == 1 else 's'})\n"


def _write_csv(result: Result, out: BinaryIO, cell: Callable[[str | None], str]) -> None:
    """Write a header and the rows. NULL is written as nothing and an empty string as "", so they stay distinct."""
    out.write(",".join(map(cell, result.columns)).encode() + b"\r\n")
    for row in result.texts():
        out.write(",".join(map(cell, row)).encode("utf-8", "backslashreplace") + b"\r\n")


def _csv_cell(value: str | None) -> str:
    if value is None:
        return ""
    if value and not any(c in value for c in ',"\r\n') and value == value.strip():
        return value
    return '"' + value.replace('"', '""') + '"'


def _safe_cell(value: str | None) -> str:
    """Return a cell that a spreadsheet does not run: an apostrophe precedes what would start a formula."""
    if value and value[0] in "=+-@\t\r" and not re.fullmatch(_NUMBER, value):
        value = "'" + value
    return _csv_cell(value)


def _write_joined(out: BinaryIO, first: bytes, lines: Iterable[bytes], between: bytes, last: bytes) -> None:
    out.write(first)
    for number, line in enumerate(lines):
        out.write(between + line if number else line)
    out.write(last)


def aligned(table: Any) -> str:
    """Return an Arrow table as aligned text, numbers to the right."""
    import pyarrow.types as types

    right = [types.is_integer(f.type) or types.is_floating(f.type) or types.is_decimal(f.type) for f in table.schema]
    rows = [[_as_text(value) for value in row.values()] for row in table.to_pylist()]
    return table_text(table.column_names, rows, right) + _count_line(len(rows), len(rows))


def _as_text(value: Any) -> str | None:
    if isinstance(value, datetime):
        return value.isoformat(" ", "auto" if value.microsecond % 1000 else "milliseconds")
    return None if value is None else str(value)


def table_text(
    names: Sequence[str],
    rows: Sequence[_Row],
    right: Sequence[bool],
    *,
    width: int | None = None,
    color: bool = False,
    expanded: bool | None = None,
) -> str:
    """Return rows as aligned columns, or as one line per value if the columns do not fit *width*."""
    style = _style if color else _no_style
    cells = [[clean(value) for value in row] for row in rows]
    heads = [clean(name) for name in names]
    widths = [max([display_width(h), *(display_width(row[i]) for row in cells)]) for i, h in enumerate(heads)]
    cap = max(widths, default=0)
    if width is not None and expanded is not True:
        cap = _fitting(widths, width - 2 * (len(widths) - 1))
    if expanded or (expanded is None and cap < _NARROWEST and cap < max(widths, default=0)):
        return _expanded(heads, rows, cells, style)
    widths = [min(w, cap) for w in widths]

    def line(row: Sequence[str], styles: Sequence[str]) -> str:
        padded = [_padded(cell, w, r) for cell, w, r in zip(row, widths, right, strict=True)]
        padded[-1] = padded[-1].rstrip()
        return "  ".join(style(cell, how) for cell, how in zip(padded, styles, strict=True))

    lines = [line(heads, [_BOLD] * len(heads)), "  ".join("-" * w for w in widths)]
    lines += [line(c, [_DIM if v is None else "" for v in row]) for c, row in zip(cells, rows, strict=True)]
    return "\n".join(lines) + "\n"


def _fitting(widths: Sequence[int], room: int) -> int:
    """Return the maximum width of a column with which all columns fit into *room*."""
    cap = max(widths, default=0)
    while cap > 1 and sum(min(w, cap) for w in widths) > room:
        cap -= 1
    return cap


def _expanded(
    heads: Sequence[str], rows: Sequence[_Row], cells: Sequence[Sequence[str]], style: Callable[[str, str], str]
) -> str:
    widest = max(map(display_width, heads), default=0)
    lines = []
    for number, (row, texts) in enumerate(zip(rows, cells, strict=True), 1):
        lines.append(style(f"-- row {number} --", _BOLD))
        for head, value, text in zip(heads, row, texts, strict=True):
            lines.append(f"{_padded(head, widest, False)}  {style(text, _DIM if value is None else '')}".rstrip())
    return "".join(line + "\n" for line in lines)


def _style(text: str, how: str) -> str:
    return f"{how}{text}{_PLAIN}" if how else text


def _no_style(text: str, how: str) -> str:
    return text


def _padded(text: str, width: int, right: bool) -> str:
    if display_width(text) > width:
        text = _clip(text, width - 1) + "…"
    blanks = " " * (width - display_width(text))
    return blanks + text if right else text + blanks


def _clip(text: str, width: int) -> str:
    """Return the part of *text* that fits into *width* columns."""
    if text.isascii():
        return text[:width]
    import wcwidth

    return wcwidth.clip(text, 0, width)


def display_width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    import wcwidth  # late: ASCII does not need it, and the import takes 15 ms

    return wcwidth.wcswidth(text)
