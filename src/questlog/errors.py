"""Errors that an operator sees, and the closed list of reasons why an event is rejected or quarantined."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_RETRY_SECONDS = 5
"""How long a client waits before it retries, if an error does not give a time."""


class QuestlogError(Exception):
    """Any error that questlog reports: a sentence, a hint what to do next, and when a retry may help, in seconds."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.retry_after = retry_after

    @property
    def retry_after_seconds(self) -> int:
        """The Retry-After header of an HTTP response that reports this error."""
        return max(1, round(self.retry_after or DEFAULT_RETRY_SECONDS))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for a log line; its class and arguments if it has none."""
    return (str(error).strip().splitlines() or [repr(error)])[0][:300]


class PlanError(QuestlogError):
    """The tracking plan has faults, one per line of *faults*."""

    exit_code = 2

    def __init__(self, path: str, faults: list[str]) -> None:
        super().__init__(
            f"{path}: {len(faults)} {'fault' if len(faults) == 1 else 'faults'}\n" + "\n".join(f"  {f}" for f in faults)
        )
        self.faults = faults


class ProjectNotFound(QuestlogError):
    """There is no plan.toml in this folder or above it."""

    exit_code = 2


class EventRejected(QuestlogError):
    """An event whose mode is `reject` does not fit the plan; it was not recorded."""

    def __init__(self, reason: str, field: str = "", detail: str = "") -> None:
        super().__init__(" ".join(filter(None, (reason, field, detail))), hint="questlog plan show")
        self.reason, self.field, self.detail = reason, field, detail


class LogUnavailable(QuestlogError):
    """The log cannot make events durable now; no event of the call was accepted."""


class LogFull(LogUnavailable):
    """The log's disk has reached its watermark; no event of the call was accepted."""


class QueueUnavailable(QuestlogError):
    """A client's queue on disk cannot be used now; the event was not queued."""


class QueueFull(QueueUnavailable):
    """A client's queue or its disk has reached its limit; the event was not queued."""


class NotPermitted(QuestlogError):
    """A file in the data folder belongs to another user and may not be opened; the hint is what its owner runs."""


class NotDurable(QuestlogError):
    """A database does not obey the settings that its commits need to survive a power cut."""


class LakeUnavailable(QuestlogError):
    """A table could not be committed now; its events are safe in the log."""


class ProjectMoved(QuestlogError):
    """The data folder was copied or moved: the catalog names files in another folder, which must not be touched."""


class LanderFenced(QuestlogError):
    """Another lander took over; this one has committed nothing since and must stop."""


class LanderReplaced(LanderFenced):
    """Another lander, perhaps on another machine, has these tables now; restarting this one would take them back."""

    exit_code = 4


class LanderBusy(QuestlogError):
    """Another lander is running on this project."""

    exit_code = 3


class QueryError(QuestlogError):
    """A SQL statement could not be run."""


class NotInstalled(QuestlogError):
    """An optional dependency is missing; the hint is the command that installs it."""


class Reason(StrEnum):
    """Why an event is in quarantine. Codes never change: queries and dashboards rely on them."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    TOO_DEEP = "too_deep"
    NO_EVENT_TYPE = "no_event_type"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    BAD_ENVELOPE = "bad_envelope"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_RANGE = "out_of_range"
    TOO_LONG = "too_long"
    NOT_IN_ENUM = "not_in_enum"
    NO_MATCH = "no_match"
    LOG_DAMAGED = "log_damaged"


@dataclass(frozen=True, slots=True)
class Reject:
    """Why one event does not fit: a stable reason, the path of the field that caused it, and a detail for people."""

    reason: Reason
    field: str = ""
    detail: str = ""
