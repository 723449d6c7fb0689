"""Reads a damaged segment page by page, without SQLite, so that rows outside the damage are still delivered.

Rows are added to a segment and never changed, so any intact copy of a row is the row, on whatever page it is found.
The row's checksum decides. Page headers, cell pointers and interior pages are ignored, because they may be damaged.
File format: sqlite.org/fileformat2.html. Reasons: docs/decisions/0016.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from questlog.log.sqlite.segment import PAGE, Stored, is_intact

_HEADER = re.compile(rb"[\x06-\x0a]\x00(?=[\x00-\x06\x08\x09]{3})", re.DOTALL)
"""A row's header: its size, NULL for the key (which is the rowid), then three integers and the blob."""
_TAIL = re.compile(rb"\x01\x03([\x01-\x06\x08\x09]{2})", re.DOTALL)
"""The only row of `tail`: key 1, a header of three bytes, two integers."""
_MAX_LOCAL = PAGE - 35
_MIN_LOCAL = (PAGE - 12) * 32 // 255 - 23
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_SETTLE_SECONDS = 2.0
_TICK_SECONDS = 0.02  # longer than the resolution of file times: a later write has a later time

Pages = Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Salvaged:
    """Intact rows in order; the next offset if a copy of it survives; `settled` if no writer can have hidden a row."""

    rows: Sequence[Stored]
    end: int | None
    settled: bool


def salvage(path: Path, *, held: bool) -> Salvaged:
    """Return every intact row of the file.

    With *held*, the caller has an open read transaction, which keeps writers from moving pages. Without it, rows
    are reported as missing only if the file did not change while it was read.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        before = _stamp(path)
        time.sleep(0 if held else _TICK_SECONDS)
        sources = _read_pages(path)
        settled = held or before == _stamp(path)
        if settled or time.monotonic() > deadline:
            return Salvaged(_intact_rows(sources), _stated_end(sources), settled)


def _stamp(path: Path) -> list[tuple[int, int]]:
    stamps = []
    for each in (path, Path(f"{path}-wal")):
        if each.exists():
            stat = each.stat()
            stamps.append((stat.st_size, stat.st_mtime_ns))
    return stamps


def _read_pages(path: Path) -> list[Pages]:
    """Return the committed pages of the WAL, which take precedence, and those of the database."""
    wal = _read_file(Path(f"{path}-wal"))
    data = _read_file(path)
    return [_committed(wal), {n + 1: data[n * PAGE : (n + 1) * PAGE] for n in range(-(-len(data) // PAGE))}]


def _read_file(path: Path) -> bytes:
    """Return the file's bytes, with zeros for pages that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        chunks = []
        for offset in range(0, os.fstat(descriptor).st_size, PAGE):
            try:
                chunks.append(os.pread(descriptor, PAGE, offset))
            except OSError:
                chunks.append(bytes(PAGE))
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _committed(wal: bytes) -> Pages:
    """Return the newest committed content of each page in a WAL, as SQLite would see it."""
    if len(wal) < 32:
        return {}
    magic, _, _, _, *salt, sum0, sum1 = struct.unpack(">8I", wal[:32])
    order = _WAL_MAGIC.get(magic)
    if order is None or _wal_sum(wal[:24], order, 0, 0) != (sum0, sum1):
        return {}
    committed: dict[int, bytes] = {}
    waiting: dict[int, bytes] = {}
    for offset in range(32, len(wal) - PAGE - 23, PAGE + 24):
        number, size, *rest = struct.unpack(">6I", wal[offset : offset + 24])
        page = wal[offset + 24 : offset + 24 + PAGE]
        sum0, sum1 = _wal_sum(wal[offset : offset + 8] + page, order, sum0, sum1)
        if rest != [*salt, sum0, sum1]:
            break
        waiting[number] = page
        if size:  # the last frame of a transaction
            committed.update(waiting)
            waiting.clear()
    return committed


def _wal_sum(data: bytes, order: str, s0: int, s1: int) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        s0 = (s0 + even + s1) & 0xFFFFFFFF
        s1 = (s1 + odd + s0) & 0xFFFFFFFF
    return s0, s1


def _intact_rows(sources: Sequence[Pages]) -> list[Stored]:
    rows: dict[int, Stored] = {}
    for pages in sources:
        for page in pages.values():
            for match in _HEADER.finditer(page):
                for row in _rows_at(page, match.start(), sources):
                    rows.setdefault(row.first, row)
    return [rows[first] for first in sorted(rows)]


def _stated_end(sources: Sequence[Pages]) -> int | None:
    """Return the highest next offset whose two copies agree. It is the only row on its page."""
    ends = []
    for pages in sources:
        for page in pages.values():
            if page[:1] != b"\x0d" or page[3:5] != b"\x00\x01":
                continue
            for match in _TAIL.finditer(page):
                numbers = _integers(page, match.end(), match.group(1))
                if numbers is not None and numbers[0] == ~numbers[1]:
                    ends.append(numbers[0])
    return max(ends, default=None)


def _rows_at(page: bytes, header: int, sources: Sequence[Pages]) -> Iterator[Stored]:
    """Yield the intact row whose header starts at *header*, wherever before it the cell starts."""
    for start in range(max(0, header - 18), header - 1):
        size, after = _varint(page, start)
        rowid, after = _varint(page, after)
        if after != header:
            continue
        body = _payload(page, header, size, sources)
        row = None if body is None else _decode(rowid, body)
        if row is not None and row.records > 0 and is_intact(row):
            yield row


def _payload(page: bytes, start: int, size: int, sources: Sequence[Pages]) -> bytes | None:
    """Return a cell's content including its overflow pages, or None if one is missing."""
    if size <= _MAX_LOCAL:
        return page[start : start + size]
    local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE - 4)
    if local > _MAX_LOCAL:
        local = _MIN_LOCAL
    chunks = [page[start : start + local]]
    missing, link = size - local, page[start + local : start + local + 4]
    while missing > 0:
        number = int.from_bytes(link, "big")
        overflow = next((pages[number] for pages in sources if number in pages), b"")
        if len(overflow) < 4:
            return None
        chunks.append(overflow[4 : 4 + missing])
        missing, link = missing - (PAGE - 4), overflow[:4]
    return b"".join(chunks)


def _decode(rowid: int, body: bytes) -> Stored | None:
    """Decode a record in SQLite's format; return None if it is not a row of the log."""
    size, at = _varint(body, 0)
    kinds = []
    while at < size:
        kind, at = _varint(body, at)
        kinds.append(kind)
    if len(kinds) != 5 or at != size or kinds[4] < 12 or kinds[4] % 2:
        return None
    numbers = _integers(body, at, kinds[1:4])
    if numbers is None:
        return None
    at += sum(_INTEGER_BYTES[kind] for kind in kinds[1:4])
    records, received_ms, crc32 = numbers
    return Stored(rowid, records, received_ms, crc32, body[at : at + (kinds[4] - 12) // 2])


def _integers(data: bytes, at: int, kinds: Sequence[int]) -> list[int] | None:
    """Return consecutive integers of these serial types, starting at *at*."""
    numbers = []
    for kind in kinds:
        if kind not in _INTEGER_BYTES:
            return None
        size = _INTEGER_BYTES[kind]
        numbers.append(int.from_bytes(data[at : at + size], "big", signed=True) if size else kind - 8)
        at += size
    return numbers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return SQLite's variable-length integer at *at*, and the offset after it."""
    value = 0
    for step in range(8):
        byte = data[at + step] if at + step < len(data) else 0
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    byte = data[at + 8] if at + 8 < len(data) else 0
    return value << 8 | byte, at + 9
