"""What `status`, `doctor`, `promote --check` and `/metrics` report, as data. Nothing here prints.

`Pipeline.report()` returns an `EmbeddedReport` or a `ClusterReport`, each a snapshot taken when it is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class TableCounts:
    """Where one table's events are. `lag_ms` is the age of the oldest event that has not landed."""

    table: str
    accepted: int
    landed: int
    tail: int
    quarantined: int
    duplicate: int
    files: int
    bytes: int
    lag_ms: int


@dataclass(frozen=True, slots=True)
class ActiveLander:
    """The process that lands this project."""

    pid: int
    command: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class PromotionState:
    """Where the project was promoted to. `records_since` counts the records logged since; None if unknown."""

    target: str
    copied: bool
    records_since: int | None


@dataclass(frozen=True, slots=True)
class EmbeddedReport:
    """One project on one machine: per table where its events are, and the ledger that must balance.

    `ledger` maps `accepted`, then every outcome and `tail`, to a number of events; `quarantine` counts by reason.
    """

    project: Path
    plan_version: str
    balanced: bool
    ledger: Mapping[str, int]
    tables: Sequence[TableCounts]
    quarantine: Mapping[str, int]
    lander: ActiveLander | None
    promoted: PromotionState | None

    @property
    def healthy(self) -> bool:
        """Whether every accepted event is accounted for."""
        return self.balanced


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a component makes no progress or gave no answer, and what to do about it."""

    text: str
    hint: str
    seconds: float | None = None
    """For how long; None if unknown."""


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """This machine's log. `name` is "" until the forwarder has run."""

    name: str
    accepted: int
    forwarded: int
    landed: int

    @property
    def waiting(self) -> int:
        """Events accepted here and not forwarded yet."""
        return self.accepted - self.forwarded


@dataclass(frozen=True, slots=True)
class TopicCounts:
    """The Kafka topic. `lag_seconds` is the age of its oldest record that has not landed; `ends` is by partition."""

    records: int
    waiting: int
    lag_seconds: float
    ends: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ClusterTable:
    """One table as the query engine reports it. If no lander wrote it, its position, waiting and lag are None."""

    table: str
    landed: int
    quarantined: int
    files: int
    bytes: int
    position: Mapping[int, int] | None
    waiting: int | None
    lag_seconds: float | None
    committed_seconds: float | None


@dataclass(frozen=True, slots=True)
class LakeCounts:
    """The cluster's tables. `lander` counts landers so far, None before the first one committed.

    `ledger` maps `read`, then every outcome, to a number of records; `added` are rows that no lander of this topic
    counted, because a promotion or a backfill wrote them. `balanced` is whether every record read has an outcome.
    """

    tables: Sequence[ClusterTable]
    ledger: Mapping[str, int]
    half_landed: bool
    balanced: bool
    quarantine: Mapping[str, int]
    quarantined_types: Mapping[str, int]
    lander: int | None
    committed_seconds: float | None


@dataclass(frozen=True, slots=True)
class ClusterReport:
    """This machine's spool and forwarder, the topic, and the tables. A part that gave no answer is `Blocked`."""

    project: Path
    profile: str
    plan_version: str
    spool: SpoolCounts
    topic_name: str
    topic: TopicCounts | Blocked
    forwarding: bool
    forwarder_blocked: Blocked | None
    schema: str
    lake: LakeCounts | Blocked

    @property
    def blocked(self) -> Mapping[str, Blocked | None]:
        """Why each component is blocked, or None: `forwarder`, `topic`, `lake`."""
        return {
            "forwarder": self.forwarder_blocked,
            "topic": self.topic if isinstance(self.topic, Blocked) else None,
            "lake": self.lake if isinstance(self.lake, Blocked) else None,
        }

    @property
    def balanced(self) -> bool | None:
        """Whether every record read has an outcome; None if the tables gave no answer."""
        return None if isinstance(self.lake, Blocked) else self.lake.balanced

    @property
    def healthy(self) -> bool:
        """Whether nothing is blocked and no record is unaccounted for."""
        return self.balanced is not False and not any(self.blocked.values())


Report = EmbeddedReport | ClusterReport


def human_bytes(size: int) -> str:
    """Return a size in decimal units: 1.5 MB is 1,500,000 bytes."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
