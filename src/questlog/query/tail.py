"""The tail: records that are logged but not landed, shaped once and kept until a commit covers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from questlog.log import Batch, LogReader, Position, merge
from questlog.plan import Plan

if TYPE_CHECKING:  # both import Arrow, which a query over an empty tail does not need
    import pyarrow as pa

    from questlog.shape import FindSeen

_SEGMENT_RECORDS = 20_000


@dataclass(slots=True)
class _Segment:
    """Records [after, through) as rows. `chosen`: some have client-chosen ids, and may be duplicates."""

    after: Position
    through: Position
    tables: dict[str, pa.Table]
    records: int
    chosen: bool


class Tail:
    """The shaped tail of one process. Not thread-safe: the engine calls it under its lock."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._segments: list[_Segment] = []
        self._through: Position = {}
        self._positions_of_ids: dict[str, tuple[int, int, int]] = {}
        self._key: tuple[str, Position, Mapping[str, Position]] | None = None
        self._committed: Mapping[str, Position] = {}

    def rows(
        self, plan: Plan, checkpoint: Position, positions: Mapping[str, Position], seen: FindSeen
    ) -> tuple[dict[str, pa.Table], bool]:
        """Return the rows of each table that are not landed yet, and whether the log had gaps.

        1 drop landed segments  2 read new records  3 shape only those
        """
        committed = {name: merge(position, checkpoint) for name, position in positions.items()}
        if self._key != (plan.version, checkpoint, committed):
            self._follow(plan, checkpoint, committed, seen)
            self._key = (plan.version, checkpoint, committed)
        gaps = self._take(plan, seen)
        tables: dict[str, list[pa.Table]] = {}
        for segment in self._segments:
            for name, rows in segment.tables.items():
                tables.setdefault(name, []).append(rows)
        return {name: _joined(parts) for name, parts in tables.items()}, gaps

    def forget(self) -> None:
        """Drop everything; the next call reads the whole tail again."""
        self._segments, self._positions_of_ids, self._key, self._through = [], {}, None, {}

    def _follow(self, plan: Plan, checkpoint: Position, committed: Mapping[str, Position], seen: FindSeen) -> None:
        """Keep the segments that no commit has reached; the others are read again at the next call.

        Once the lander has landed one of two records with the same client-chosen id, the other is the duplicate. So if
        there are such records, all segments are shaped again.
        """
        same_plan = self._key is not None and self._key[0] == plan.version
        kept: list[_Segment] = []
        if same_plan and not any(segment.chosen for segment in self._segments):
            furthest = merge(checkpoint, *committed.values())
            while self._segments and _untouched(self._segments[-1], furthest):
                kept.insert(0, self._segments.pop())
        self.forget()
        self._committed, self._through = committed, dict(checkpoint)
        if kept:
            self._take(plan, seen, until=kept[0].after)
            self._segments += kept
            self._through = merge(self._through, *(segment.through for segment in kept))

    def _take(self, plan: Plan, seen: FindSeen, until: Position | None = None) -> bool:
        """Read and shape from where the last read stopped (up to *until*); return whether there were gaps."""
        gaps = False
        while until is None or any(self._through.get(p, 0) < offset for p, offset in until.items()):
            batch = self._log.read(self._through, _SEGMENT_RECORDS)
            if not batch:
                break
            if until is not None:
                batch = _before(batch, until)
            if batch:
                self._segments.append(self._shape(plan, batch, seen))
                self._compact()
            gaps = gaps or bool(batch.gaps)
            self._through = merge(self._through, batch.through)
        return gaps

    def _shape(self, plan: Plan, batch: Batch, seen: FindSeen) -> _Segment:
        from questlog.shape import shape

        def first_position(event_id: str) -> tuple[int, int, int] | None:
            return self._positions_of_ids.get(event_id) or seen(event_id)

        shaped = shape(batch.entries, plan, committed=self._committed, seen=first_position, gaps=batch.gaps)
        self._positions_of_ids.update({event_id: (p, o, ms) for event_id, p, o, ms in shaped.seen})
        chosen = bool(shaped.seen or shaped.duplicates)
        return _Segment(self._through, batch.through, dict(shaped.tables), len(batch.entries), chosen)

    def _compact(self) -> None:
        """Join neighbors of similar size: a poller adds a few rows at a time and must not scan thousands of pieces."""
        while len(self._segments) > 1 and self._segments[-2].records <= 2 * self._segments[-1].records:
            if self._segments[-2].records + self._segments[-1].records > _SEGMENT_RECORDS:
                return
            last, before = self._segments.pop(), self._segments.pop()
            tables = {
                name: _joined([s.tables[name] for s in (before, last) if name in s.tables]).combine_chunks()
                for name in {**before.tables, **last.tables}
            }
            self._segments.append(
                _Segment(
                    before.after, merge(before.through, last.through), tables,
                    before.records + last.records, before.chosen or last.chosen,
                )
            )  # fmt: skip


def _untouched(segment: _Segment, furthest: Position) -> bool:
    """Return whether no commit has reached into the segment."""
    return all(
        furthest.get(partition, 0) <= segment.after.get(partition, 0)
        for partition, until in segment.through.items()
        if until > segment.after.get(partition, 0)
    )


def _before(batch: Batch, until: Position) -> Batch:
    entries = [e for e in batch.entries if e.offset < until.get(e.partition, 0)]
    gaps = tuple(g for g in batch.gaps if g.first < until.get(g.partition, 0))
    through = {p: min(o, until.get(p, 0)) for p, o in batch.through.items()}
    return Batch(entries, through, gaps)


def _joined(parts: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return parts[0] if len(parts) == 1 else pa.concat_tables(parts)
