"""Reads the next batch to land: bounded in records and bytes, or exactly the rest of a half-landed batch."""

from __future__ import annotations

from operator import attrgetter

from questlog.log import Batch, Entry, Gap, LogReader, Position, cut_gaps, merge

BATCH_BYTES = 24 << 20
"""The largest batch in bytes. Shaping takes several times as much memory."""
_READ_RECORDS = 5_000
_value_of = attrgetter("value")


def read_batch(log: LogReader, after: Position, records: int, until: Position | None = None) -> Batch:
    """Return about *records* records past *after*, at most about `BATCH_BYTES`.

    With *until*, return exactly the records up to there: a half-landed batch must be completed as it was begun,
    regardless of what has been logged since and of how the log divides its reads.
    """
    entries: list[Entry] = []
    gaps: list[Gap] = []
    size, position = 0, dict(after)
    while until is None or not _reached(position, until):
        limit = _READ_RECORDS if until is not None else min(_READ_RECORDS, records - len(entries))
        part = log.read(position, limit, BATCH_BYTES)
        if not part:
            break
        position = merge(position, part.through)
        new = part.entries
        if until is not None:
            new = [entry for entry in new if entry.offset < until.get(entry.partition, 0)]
        entries += new
        size += sum(map(len, map(_value_of, new)))
        gaps += part.gaps if until is None else cut_gaps(part.gaps, until)
        if until is None and (len(entries) >= records or size >= BATCH_BYTES):
            break
    return Batch(entries, position if until is None else merge(after, until), tuple(gaps))


def _reached(position: Position, until: Position) -> bool:
    return all(position.get(partition, 0) >= offset for partition, offset in until.items())
